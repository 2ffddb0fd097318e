"""How to train, as the arguments of TRL's trainer."""

import torch
from trl import DPOConfig

from mapjob.config.training import Training


def arguments(how: Training, folder: str, max_length: int) -> DPOConfig:
    """Quiet ones: no reports, no bars, no checkpoints. max_length: tokens of prompt and completion."""
    on_gpu = torch.cuda.is_available()
    rate = how.learning_rate
    return DPOConfig(
        output_dir=folder,
        num_train_epochs=how.epochs,
        max_steps=how.max_steps or -1,
        per_device_train_batch_size=how.batch_size,
        gradient_accumulation_steps=how.accumulate,
        learning_rate=(1e-5 if how.lora else 1e-6) if rate is None else rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        max_length=max_length,
        beta=how.parameters.get("beta", 0.1),  # of TRL's own loss
        seed=how.seed,
        precompute_ref_log_probs=True,
        bf16=on_gpu,
        activation_checkpointing=on_gpu,
        dataloader_pin_memory=on_gpu,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would show the losses before in the place of NaN
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
