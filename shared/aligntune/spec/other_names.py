"""What other tools call the keys of a RunSpec, for suggestions only: no other name is accepted.

The names are those of transformers' TrainingArguments, TRL, PEFT, Axolotl and LLaMA-Factory, as
keys and (with hyphens) as flags. A value is what to write here: a key, a key with its value, or a
sentence where there is no key.
"""

from __future__ import annotations

_BY_KEY: dict[str, str] = {
    # model
    "model.name": "model_name_or_path base_model model_name model_id model_path "
    "pretrained_model_name_or_path",
    "model.revision": "model_revision revision_of_model",
    "model.dtype": "torch_dtype model_dtype",
    "model.attention": "attn_implementation flash_attn sdp_attention",
    "model.attention=flash_attention_2": "flash_attention use_flash_attention "
    "use_flash_attention_2 use_flash_attn",
    "model.quantization": "quantization_bit quantization_config bnb_config",
    "model.quantization=4bit": "load_in_4bit use_4bit qlora use_qlora",
    "model.quantization=8bit": "load_in_8bit use_8bit",
    "model.chat_template": "chat_template_path chat_template_jinja template",
    # data
    "dataset.name": "datasets data dataset_name dataset_path dataset_dir data_path data_files "
    "train_file train_dataset",
    "dataset.config": "dataset_config dataset_config_name subset",
    "dataset.split": "train_split dataset_train_split",
    "dataset.eval_name": "eval_dataset test_datasets eval_datasets validation_file eval_file",
    "dataset.eval_split": "test_split dataset_test_split validation_split_name",
    "dataset.columns": "column_mapping columns_mapping field_mapping",
    "dataset.columns.text": "dataset_text_field text_field text_column",
    "dataset.max_samples": "max_train_samples num_samples",
    "dataset.system_prompt": "default_system system system_message",
    "dataset.validation_fraction": "val_set_size val_size test_size val_fraction val_split "
    "val_split_ratio validation_split",
    # training
    "training.epochs": "num_train_epochs num_epochs n_epochs train_epochs",
    "training.max_steps": "max_train_steps total_steps num_steps",
    "training.batch_size": "per_device_train_batch_size micro_batch_size train_batch_size "
    "per_device_batch_size",
    "training.gradient_accumulation": "gradient_accumulation_steps grad_accum "
    "accumulate_grad_batches",
    "training.learning_rate": "lr base_lr max_lr",
    "training.schedule": "lr_scheduler_type lr_scheduler scheduler lr_schedule",
    "training.warmup": "warmup_steps warmup_ratio num_warmup_steps",
    "training.optimizer": "optim",
    "training.max_grad_norm": "gradient_clipping grad_clip gradient_clip_val clip_grad_norm",
    "training.max_length": "max_seq_length max_seq_len sequence_len cutoff_len seq_length "
    "block_size model_max_length",
    "training.packing": "sample_packing neat_packing",
    "training.completion_only_loss": "train_on_inputs train_on_prompt mask_prompt",
    "training.assistant_only_loss": "train_on_responses_only mask_history roles_to_train",
    "training.gradient_checkpointing": "use_gradient_checkpointing activation_checkpointing",
    "training.precision": "mixed_precision amp",
    "training.precision=bf16": "bf16 pure_bf16",
    "training.precision=fp16": "fp16",
    "training.seed": "random_seed data_seed",
    "training.logging_steps": "logging_strategy log_every log_every_n_steps",
    "training.eval_steps": "eval_strategy evaluation_strategy evals_per_epoch val_check_interval",
    "training.save_steps": "save_strategy saves_per_epoch",
    "training.save_total_limit": "max_checkpoints",
    # adapter
    "adapter.type": "use_peft use_lora finetuning_type peft_type",
    "adapter.path": "adapter_name_or_path lora_model_dir peft_model resume_lora",
    "adapter.rank": "r lora_r lora_rank",
    "adapter.alpha": "lora_alpha",
    "adapter.dropout": "lora_dropout",
    "adapter.targets": "target_modules lora_target_modules lora_target lora_targets "
    "lora_target_linear",
    "adapter.rslora": "use_rslora peft_use_rslora",
    "adapter.dora": "use_dora peft_use_dora",
    # preferences and rewards
    "preference.beta": "dpo_beta pref_beta kto_beta",
    "preference.loss_type": "pref_loss dpo_loss_type dpo_loss",
    "preference.label_smoothing": "dpo_label_smoothing",
    "rl.beta": "kl_coef init_kl_coef kl_coefficient",
    "rl.epsilon": "cliprange clip_range clip_ratio",
    "rl.num_generations": "group_size num_rollouts n_samples",
    "rl.max_completion_length": "max_new_tokens response_length max_response_length "
    "max_completion_len",
    "rl.max_prompt_length": "max_prompt_len",
    "rewards": "reward_funcs reward_functions reward_func reward_model reward_model_path",
    # the run
    "algorithm": "algo stage method task trainer trainer_type",
    "output": "output_dir output_path save_dir run_dir",
    "gpus": "num_gpus n_gpus devices",
    "gpus=0": "use_cpu no_cuda",
    "backend=unsloth": "use_unsloth",
}

_WITHOUT_KEY: dict[str, str] = {
    "a run always writes its losses to events.jsonl and tensorboard/; remove it": "report_to "
    "run_name wandb_project wandb_entity use_wandb",
    "a run uses one process and one GPU; remove it": "deepspeed fsdp fsdp_config "
    "tensor_parallel_size",
    "training uploads nothing; use `aligntune-run push RUN NAME` afterwards": "push_to_hub "
    "hub_model_id hub_token",
    "evaluation uses training.batch_size; remove it": "per_device_eval_batch_size eval_batch_size",
    "use `aligntune-run --resume RUN`, without other options": "resume_from_checkpoint",
    "the images do not contain vLLM; remove it": "use_vllm",
}

OTHER_NAMES: dict[str, str] = {
    name: instead
    for instead, names in (*_BY_KEY.items(), *_WITHOUT_KEY.items())
    for name in names.split()
}
"""Other name -> what to write instead."""
