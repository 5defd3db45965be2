"""Trains the course's small GPT-2 and saves it in Hugging Face's form: data/gpt2-course.

    python data/recipes/make_gpt2_course.py

It learns from Gulliver's Travels and data/voyage.txt, both without their last tenth, with helpers.training. Stopping
rule:
training goes on in stages of 250 steps at a constant learning rate; when two stages in a row have not improved the
loss on the two last
tenths, it stops, and the best stage's weights are kept. Needs the real Gulliver. About 15 minutes on 2 CPU cores.
"""

import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from helpers import assets, corpus, pretrained, runtime, training  # noqa: E402
from helpers.model import GPT, GPTConfig  # noqa: E402

STAGE, PATIENCE = 250, 2
MODEL = GPTConfig(vocab_size=4096, n_positions=256, n_embd=192, n_layer=4, n_head=6, dropout=0.2)
TRAINING = training.TrainConfig(
    steps=STAGE,
    batch_size=8,
    context=256,
    learning_rate=1.5e-3,
    final_share=1.0,
    eval_every=STAGE,
    sample_every=STAGE,
    seed=2026,
)


def main():
    gulliver = corpus.load_gulliver("course")
    if gulliver.is_stand_in:
        raise SystemExit("This recipe needs the real Gulliver's Travels: connect to the internet or set COURSE_ASSETS.")
    voyage = corpus.load_text(assets.DATA / "voyage.txt", "course")
    between = torch.tensor([gulliver.tokenizer.end_of_text])
    train_ids, test_ids = (torch.cat([book, between, own]) for book, own in zip(gulliver.split(), voyage.split()))

    runtime.seed_everything(TRAINING.seed)
    model = GPT(MODEL).to(runtime.best_device())
    best_loss, best_weights, stages_since = float("inf"), None, 0
    with tempfile.TemporaryDirectory() as folder:
        for stage in range(1, 100):
            config = replace(TRAINING, steps=stage * STAGE)
            history = training.train(
                model, train_ids, test_ids, config, folder, resume=stage > 1, tokenizer=gulliver.tokenizer
            )
            print(f"after {config.steps} steps: test loss {history.test_loss[-1]:.4f}", flush=True)
            if history.test_loss[-1] < best_loss:
                best_loss, stages_since = history.test_loss[-1], 0
                best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                best_steps = config.steps
            else:
                stages_since += 1
            if stages_since == PATIENCE:
                break

    model.load_state_dict(best_weights)
    target = assets.DATA / "gpt2-course"
    pretrained.to_huggingface(model.cpu().eval()).half().save_pretrained(target)
    config_file = target / "config.json"
    settings = json.loads(config_file.read_text("utf-8"))
    settings["dtype"] = "float32"  # stored in 16 bits, computed in 32
    config_file.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    (target / "generation_config.json").unlink(missing_ok=True)
    record = {
        "steps": best_steps,
        "test_loss_nats_per_token": best_loss,
        "test_bits_per_byte": gulliver.bits_per_byte(best_loss, test_ids),
        "train_tokens": len(train_ids),
        "test_tokens": len(test_ids),
        "stage": STAGE,
        "patience": PATIENCE,
        "training": asdict(TRAINING),
        "history": [[step, round(loss, 4)] for step, loss in zip(history.test_step, history.test_loss)],
        "torch": torch.__version__,
    }
    (target / "training.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
