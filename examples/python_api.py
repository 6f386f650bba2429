"""Train in two steps in a notebook: on conversations, then on preferences.

Cells begin with ``# %%``, as in VS Code, Spyder and Jupytext. To run it as a program, use
``python examples/python_api.py``.
"""

# %% What can run here
from aligntune.core.backend_factory import (
    Trainer,
    create_rl_trainer,
    create_sft_trainer,
    get_backend_status,
)

for name, status in get_backend_status().items():
    print(f"{name}: {'available' if status['available'] else 'not available'}, {status['reason']}")

# %% Supervised fine-tuning: describe the run, see the plan, train
sft = create_sft_trainer(
    model_name="Qwen/Qwen3-0.6B",
    dataset_name="trl-lib/Capybara",
    backend="auto",
    num_epochs=1,
    batch_size=4,
    max_samples=2000,
    val_split_ratio=0.1,
    use_peft=True,
    lora_r=16,
)
print(sft.plan())

# %%
trained = sft.train()
print(f"evaluation loss {trained.metrics['loss']:.4f}, in {trained.run_dir}")

# %% Preferences: continue from that run
dpo = create_rl_trainer(
    model_name=trained.run_dir,
    dataset_name="trl-lib/ultrafeedback_binarized",
    algorithm="dpo",
    beta=0.1,
    num_epochs=1,
    batch_size=4,
    max_samples=1000,
    val_split_ratio=0.1,
)
aligned = dpo.train()
print(f"accuracy {aligned.metrics['accuracy']:.2f}, margin {aligned.metrics['margin']:.4f}")

# %% Ask both models, at any time: runs outlive the notebook
QUESTION = "What is two plus two?"
for run in (trained.run_dir, aligned.run_dir):
    print(Trainer.from_run(run).predict(QUESTION, max_new_tokens=32)[0].text)

# %% Evaluate the saved weights again: the results are the same
again = dpo.evaluate()
print(again.accuracy, again.metrics["margin"], again.samples[0])

# %% Save a copy
print(dpo.save_model("aligned-model"))
