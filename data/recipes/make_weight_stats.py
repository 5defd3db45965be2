"""Compute the statistics of the real GPT-2 small that ship with the course: data/gpt2_weight_stats.json.

    COURSE_ASSETS=folder python -m data.recipes.make_weight_stats

The folder needs gpt2-small/attention_fp16.safetensors: OpenAI's GPT-2 small (MIT licence) with Hugging Face's names, in
float16, without the token embedding and the MLP matrices. Only histograms and summaries are stored, no weights.
"""

import json

from safetensors import safe_open

from helpers import weights
from helpers.machine import assets
from helpers.pretrained import TRANSPOSED

SOURCE = "gpt2-small/attention_fp16.safetensors"


def rounded(value):
    """The value with six significant digits, which are enough for every figure and keep the file small."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main():
    folder = assets.assets_folder()
    if folder is None or not (folder / SOURCE).is_file():
        raise SystemExit(f"This recipe needs {SOURCE} in the folder that COURSE_ASSETS names.")
    tensors = {}
    with safe_open(folder / SOURCE, "pt") as file:
        for stored in sorted(file.keys()):
            # Hugging Face's Conv1D stores a matrix as (inputs, outputs), nn.Linear as (outputs, inputs).
            tensor = file.get_tensor(stored)
            tensors |= weights.tensor_statistics(stored, tensor.T if stored.endswith(TRANSPOSED) else tensor)
    record = {
        "model": "GPT-2 small (124M, OpenAI)",
        "source": "float16 export of OpenAI's weights; token embedding and MLP matrices are not in it",
        "sha256": assets.sha256(folder / SOURCE),
        "tensors": rounded(tensors),
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in record.pop("tensors").items())
    text = json.dumps(record, indent=0)[:-2] + ',\n"tensors": {\n' + lines + "\n}\n}\n"
    json.loads(text)
    target = assets.DATA / "gpt2_weight_stats.json"
    assets.write_atomically(target, lambda path: path.write_text(text, encoding="utf-8"))
    print(f"{len(tensors)} tensors -> {target.relative_to(assets.ROOT)}")


if __name__ == "__main__":
    main()
