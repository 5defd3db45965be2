"""Train the course's small GPT-2 and save it in Hugging Face's format in data/gpt2-course.

    python -m data.recipes.make_gpt2_course

It is trained with helpers.training on Gulliver's Travels and data/voyage.txt, both without their last tenth. Training
runs in stages of 250 steps at a constant learning rate. It stops when two stages in a row have not improved the loss on
the two last tenths, and the weights of the best stage are kept. The recipe needs the real Gulliver's Travels and takes
about 15 minutes on 2 CPU cores.
"""

import json
import tempfile
from dataclasses import asdict, replace

import torch

from helpers import corpus, pretrained, training
from helpers.machine import assets, runtime
from helpers.model import GPT, GPTConfig

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


def train_in_stages(model, train_ids, test_ids, tokenizer):
    """Trains until the stopping rule applies, and leaves the best stage's weights in the model.

    Returns the number of steps of the best stage, its test loss, and the history of all stages.
    """
    best_loss, best_steps, best_weights = float("inf"), 0, None
    with tempfile.TemporaryDirectory() as folder:
        for stage in range(1, 100):
            config = replace(TRAINING, steps=stage * STAGE)
            history = training.train(
                model, train_ids, test_ids, config, folder, resume=stage > 1, tokenizer=tokenizer
            )
            print(f"after {config.steps} steps: test loss {history.test_loss[-1]:.4f}", flush=True)
            if history.test_loss[-1] < best_loss:
                best_loss, best_steps = history.test_loss[-1], config.steps
                best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            elif config.steps - best_steps == PATIENCE * STAGE:
                break
    model.load_state_dict(best_weights)
    return best_steps, best_loss, history


def save(model, folder):
    """Saves the model in Hugging Face's format: stored in 16 bits, to be used in 32."""
    pretrained.to_huggingface(model.cpu().eval()).half().save_pretrained(folder)
    config_file = folder / "config.json"
    settings = json.loads(config_file.read_text("utf-8"))
    settings["dtype"] = "float32"
    config_file.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    (folder / "generation_config.json").unlink(missing_ok=True)


def main():
    gulliver = corpus.load_gulliver("course")
    if gulliver.is_stand_in:
        raise SystemExit("This recipe needs the real Gulliver's Travels: connect to the internet or set COURSE_ASSETS.")
    voyage = corpus.load_text(assets.DATA / "voyage.txt", "course")
    separator = torch.tensor([gulliver.tokenizer.end_of_text])
    train_ids, test_ids = (torch.cat([book, separator, own]) for book, own in zip(gulliver.split(), voyage.split()))

    runtime.seed_everything(TRAINING.seed)
    model = GPT(MODEL).to(runtime.best_device())
    best_steps, best_loss, history = train_in_stages(model, train_ids, test_ids, gulliver.tokenizer)
    folder = assets.DATA / "gpt2-course"
    save(model, folder)
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
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
