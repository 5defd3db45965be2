"""Where files come from: the order of search, checks, damage, and how long it takes to notice that one is offline."""

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from helpers import corpus
from helpers.machine import assets, hosts

pytestmark = pytest.mark.offline


@pytest.fixture
def web(monkeypatch, tmp_path):
    """An empty cache, and an internet that serves what a test puts into it: web[address] = bytes."""
    served = {}
    monkeypatch.delenv("COURSE_ASSETS", raising=False)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(assets, "reachable_hosts", lambda: frozenset(hosts.HOSTS))
    assets._say_once.cache_clear()

    class Downloader:
        def __init__(self, **_):
            pass

        def __call__(self, url, output_file, pooch):
            if url not in served:
                raise assets.requests.HTTPError(f"404 Client Error: Not Found for url: {url}")
            with open(output_file, "wb") as file:
                file.write(served[url])

    monkeypatch.setattr(assets.pooch, "HTTPDownloader", Downloader)
    return served


FILE = {"a.txt": ("https://raw.githubusercontent.com/a.txt", hashlib.sha256(b"right").hexdigest())}
URL = FILE["a.txt"][0]


def test_download_is_verified_and_kept(web, tmp_path):
    web[URL] = b"right"
    path = assets.locate("things", FILE) / "a.txt"
    assert path.read_bytes() == b"right" and path.is_relative_to(tmp_path / "cache")
    web.clear()
    assert assets.locate("things", FILE) / "a.txt" == path, "it is not read from the cache"


@pytest.mark.parametrize("damage", [b"wrong", b"rig", b""])
def test_a_damaged_cached_file_is_named_and_downloaded_again(web, damage, capsys):
    web[URL] = b"right"
    path = assets.locate("things", FILE) / "a.txt"
    path.write_bytes(damage)
    assets.locate("things", FILE)
    assert f"DAMAGED: {path}" in capsys.readouterr().out
    assert path.read_bytes() == b"right"
    path.unlink()
    assert (assets.locate("things", FILE) / "a.txt").read_bytes() == b"right"


def test_a_damaged_file_without_a_network_is_an_error(web, capsys):
    path = assets.cache_folder() / "things" / "a.txt"
    assets.write_atomically(path, lambda temporary: temporary.write_bytes(b"wrong"))
    with pytest.raises(assets.AssetUnavailable, match="404"):
        assets.locate("things", FILE)
    assert "removed from the cache" in capsys.readouterr().out
    assert not path.exists()


def test_a_wrong_download_is_refused_and_leaves_nothing(web):
    web[URL] = b"<html>Please log in to this network</html>"
    with pytest.raises(assets.AssetUnavailable, match="hash"):
        assets.locate("things", FILE)
    assert list((assets.cache_folder() / "things").iterdir()) == []


def test_the_learners_folder_comes_first_and_is_never_changed(web, monkeypatch, tmp_path, capsys):
    mine = tmp_path / "mine" / "things" / "a.txt"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"right")
    monkeypatch.setenv("COURSE_ASSETS", str(tmp_path / "mine"))
    assert assets.locate("things", FILE) == mine.parent
    mine.write_bytes(b"wrong")
    web[URL] = b"right"
    assert assets.locate("things", FILE) == assets.cache_folder() / "things"
    assert "replace it or delete it" in capsys.readouterr().out
    assert mine.read_bytes() == b"wrong"


def test_a_missing_assets_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_ASSETS", str(tmp_path / "nowhere"))
    with pytest.raises(NotADirectoryError, match="nowhere"):
        assets.assets_folder()


def test_gutenberg_is_the_second_source_and_its_file_is_checked_later(web, capsys):
    book = b"*** START OF X ***\n" + b"GULLIVER went to sea. " * 30_000 + b"\n*** END OF X ***\nlicence"
    web[assets.GUTENBERG_URL] = book
    asset = assets.gulliver()
    assert not asset.is_stand_in and "gutenberg.org" in asset.title and asset.path.read_bytes() == book
    web.clear()
    assert assets.gulliver().path == asset.path
    asset.path.write_bytes(book[:-100])
    assert assets.gulliver().is_stand_in
    output = capsys.readouterr().out
    assert "DAMAGED" in output and "Stand-in" in output


def test_a_page_that_is_not_the_book_is_not_used(web):
    web[assets.GUTENBERG_URL] = b"<html>Our robots think that you are a robot</html>"
    assert assets.gulliver().is_stand_in
    assert not (assets.cache_folder() / "gulliver" / "gutenberg.txt").exists()


def test_files_are_written_completely_or_not_at_all(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("before")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        assets.write_atomically(target, fail)
    assert target.read_text() == "before" and list(tmp_path.iterdir()) == [target]


def test_everything_offline_in_under_five_seconds_when_nothing_answers(tmp_path):
    """No cache, and a network that accepts connections and never answers, as in some hotels."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connections = []

        def accept():
            while silent.fileno() >= 0:
                with contextlib.suppress(OSError):  # the socket is closed at the end
                    connections.append(silent.accept())

        threading.Thread(target=accept, daemon=True).start()
        code = (
            "import time; from helpers import corpus, pretrained; from helpers.machine import assets; "
            "start = time.time(); corpus.load_gulliver(); assets.gpt2_weights(); print(time.time() - start)"
        )
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {**os.environ, "HTTPS_PROXY": proxy, "https_proxy": proxy, "NO_PROXY": "", "no_proxy": ""}
        environment |= {"COURSE_CACHE": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "COURSE_ASSETS": ""}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=assets.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Stand-in") == 3
    assert connections, "the silent network got no connection: this test shows nothing"
    assert float(done.stdout.split()[-1]) < 5


def test_asking_the_hosts_takes_no_longer_than_patience(monkeypatch):
    monkeypatch.delenv("COURSE_OFFLINE", raising=False)
    monkeypatch.setattr(hosts.requests, "head", lambda *_, **__: time.sleep(60))
    monkeypatch.setattr(hosts, "get_session", lambda: time.sleep(60))
    hosts.problems.cache_clear()
    start = time.monotonic()
    assert assets.reachable_hosts() == frozenset()
    assert time.monotonic() - start < assets.PATIENCE + 1
    assert assets.reachable_hosts() == frozenset()  # remembered
    assert time.monotonic() - start < assets.PATIENCE + 1
    hosts.problems.cache_clear()


def test_gpt2_weights_in_a_hugging_face_cache_are_checked(offline, monkeypatch, capsys):
    """A snapshot with the right names is used only if its hashes are right."""
    folder = offline / "given" / "hub" / "models--openai-community--gpt2" / "snapshots" / assets.GPT2_REVISION
    folder.mkdir(parents=True)
    for name in assets.GPT2_FILES:
        (folder / name).write_bytes(name.encode())
    monkeypatch.setenv("COURSE_ASSETS", str(offline / "given"))
    assert assets.gpt2_weights().is_stand_in
    assert capsys.readouterr().out.count("DAMAGED") == 2 * len(assets.GPT2_FILES) // 2
    right = {name: hashlib.sha256(name.encode()).hexdigest() for name in assets.GPT2_FILES}
    monkeypatch.setattr(assets, "GPT2_FILES", right)
    weights = assets.gpt2_weights()
    assert not weights.is_stand_in and weights.path == folder


def hub(monkeypatch, arrive):
    """huggingface.co answers, and hf_hub_download delivers the bytes that arrive(name, force) returns."""
    monkeypatch.setattr(assets, "reachable_hosts", lambda: frozenset({assets.HUB_HOST}))
    right = hashlib.sha256(b"right").hexdigest()
    monkeypatch.setattr(assets, "GPT2_FILES", dict.fromkeys(assets.GPT2_FILES, right))

    def download(repository, name, revision, cache_dir, endpoint, token, force_download=False):
        assert token is False or os.environ.get("HF_ENDPOINT"), "an expired HF_TOKEN would be sent"
        path = cache_dir / "snapshot" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(arrive(name, force_download))
        return str(path)

    monkeypatch.setattr(assets.huggingface_hub, "hf_hub_download", download)


def test_weights_are_downloaded_and_a_damaged_download_is_repeated_once(offline, monkeypatch, capsys):
    hub(monkeypatch, lambda name, force: b"right" if force else b"wrong")
    weights = assets.gpt2_weights()
    assert not weights.is_stand_in and (weights.path / "model.safetensors").read_bytes() == b"right"
    assert capsys.readouterr().out.count("DAMAGED") == 2


@pytest.mark.parametrize("failure", [OSError, RuntimeError, ValueError, TimeoutError])
def test_a_download_that_fails_ends_in_the_stand_in(offline, monkeypatch, capsys, failure):
    def arrive(name, force):
        raise failure("the connection broke")

    hub(monkeypatch, arrive)
    assert assets.gpt2_weights().is_stand_in
    assert "the connection broke" in capsys.readouterr().out


def test_weights_that_stay_damaged_are_not_used(offline, monkeypatch):
    hub(monkeypatch, lambda name, force: b"wrong")
    assert assets.gpt2_weights().is_stand_in


def test_an_altered_stand_in_is_not_used(offline, monkeypatch):
    (offline / "data").mkdir()
    (offline / "data" / "SHA256SUMS").write_bytes((assets.DATA / "SHA256SUMS").read_bytes())
    (offline / "data" / "voyage.txt").write_bytes((assets.DATA / "voyage.txt").read_bytes()[:100])
    monkeypatch.setattr(assets, "DATA", offline / "data")
    with pytest.raises(assets.AssetDamaged, match="git checkout data/voyage.txt"):
        assets.gulliver()


def test_a_file_with_the_name_of_the_cache_folder_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(NotADirectoryError, match="COURSE_CACHE"):
        assets.cache_folder()


def test_real_files_are_used_without_any_message(real_files, capsys):
    assert assets.gulliver().path == real_files / "gulliver" / "829-0.txt"
    assert assets.gpt2_encoding_folder() == real_files / "tiktoken"
    assert capsys.readouterr().out == ""
    assert corpus.load_tokenizer("gpt2").encode("The dog").tolist() == [464, 3290]


def test_a_gutenberg_book_is_downloaded_once_and_must_be_complete(web):
    address = "https://www.gutenberg.org/cache/epub/84/pg84.txt"
    with pytest.raises(assets.AssetUnavailable, match="404"):
        assets.gutenberg(84)
    web[address] = b"<html>You are a robot</html>"
    with pytest.raises(assets.AssetUnavailable, match="not a complete book"):
        assets.gutenberg(84)
    cut_short = b"*** START OF THE EBOOK ***\r\nThe END OF the story is missin"
    for content in (cut_short, cut_short + b"\r\n*** END OF THE EBOOK ***\r\n\xff"):  # the second is not UTF-8
        web[address] = content
        with pytest.raises(assets.AssetUnavailable, match="not a complete book"):
            assets.gutenberg(84)
    cached = assets.cache_folder() / "gutenberg" / "pg84.txt"
    assert not cached.exists()
    cached.write_bytes(cut_short)  # it is not used but downloaded again
    web[address] = b"*** START OF THE EBOOK ***\r\nIt was on a dreary night\r\n*** END OF THE EBOOK ***"
    assert corpus.load_text(assets.gutenberg(84).path, "course").text == "It was on a dreary night"
    del web[address]
    assert assets.gutenberg(84).path.is_file(), "it is not read from the cache"
    for wrong in ("84", 0, None):
        with pytest.raises(ValueError, match="number of a book"):
            assets.gutenberg(wrong)


def test_tiktokens_own_cache_is_used_where_its_files_are_sound(web, monkeypatch, tmp_path, capsys):
    files = {name: (name, hashlib.sha256(name.encode()).hexdigest()) for name in assets.TIKTOKEN_FILES}
    monkeypatch.setattr(assets, "TIKTOKEN_FILES", files)
    own = tmp_path / "tiktoken's"
    own.mkdir()
    for name in files:
        (own / name).write_bytes(name.encode())
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.setenv(variable, str(own))
        assert assets.gpt2_encoding_folder() == own
        monkeypatch.delenv(variable)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(own))
    (own / name).write_bytes(b"wrong")
    with pytest.raises(assets.AssetUnavailable, match="404"):
        assets.gpt2_encoding_folder()
    assert f"DAMAGED: {own / name}" in capsys.readouterr().out and (own / name).read_bytes() == b"wrong"


@pytest.fixture
def other_user():
    """Files that this user may not read: other_user(path) takes the permission away, also from an administrator."""
    if sys.platform == "win32":
        pytest.skip("Windows has other permissions")
    modes, is_root = {}, os.geteuid() == 0

    def take(path):
        modes[path] = path.stat().st_mode
        path.chmod(0)
        if is_root:
            try:
                os.seteuid(65534)
            except OSError:
                pytest.skip("there is no other user here, as in a user namespace")

    yield take
    if is_root:
        os.seteuid(0)
    for path, mode in modes.items():
        path.chmod(mode)


@pytest.fixture
def shared():
    """A folder that every user may write to, as on a shared machine."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def test_a_file_of_another_user_is_named_and_the_next_place_is_tried(web, monkeypatch, shared, other_user, capsys):
    web[URL] = b"right"
    path = shared / "given" / "things" / "a.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"right")
    monkeypatch.setenv("COURSE_ASSETS", str(shared / "given"))
    monkeypatch.setenv("COURSE_CACHE", str(shared / "cache"))
    other_user(path)
    assert (assets.locate("things", FILE) / "a.txt").read_bytes() == b"right"
    assert f"UNREADABLE: {path} (Permission denied)" in capsys.readouterr().out


def test_unreadable_folders_are_no_error_either(web, monkeypatch, shared, other_user, capsys):
    """The cache, the book's second source and the Hugging Face cache, all of another user."""
    folder = shared / "locked"
    for name in ("cache/gulliver/gutenberg.sha256", "cache/gutenberg/pg84.txt", "hub/models--openai-community--gpt2/x"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("x", encoding="utf-8")
    monkeypatch.setenv("COURSE_CACHE", str(folder / "cache"))
    monkeypatch.setattr(assets.huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(assets, "reachable_hosts", frozenset)
    other_user(folder)
    assert assets.gulliver().is_stand_in and assets.gpt2_weights().is_stand_in
    with pytest.raises(assets.AssetUnavailable, match="does not answer|COURSE_OFFLINE|HF_"):
        assets.gutenberg(84)
    monkeypatch.setenv("COURSE_ASSETS", str(folder / "cache"))
    with pytest.raises(NotADirectoryError, match="that you may read"):
        assets.assets_folder()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_download_can_be_read_by_those_who_may_open_its_folder(web, umask, mode):
    """pooch's own file is readable by its owner alone, which locks out the others of a shared machine."""
    web[URL] = b"right"
    before = os.umask(umask)
    try:
        path = assets.locate("things", FILE) / "a.txt"
        assert path.stat().st_mode & 0o777 == mode
        assets.write_atomically(path, lambda temporary: temporary.write_bytes(b"right"))
        assert path.stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)
