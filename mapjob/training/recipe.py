"""How to train: epochs, batches, learning rate, as the arguments of TRL's trainer."""

from dataclasses import dataclass

import torch
from trl import DPOConfig


@dataclass(frozen=True)
class Recipe:
    """How to train. As the MAP paper does unless said otherwise: one epoch, 128 pairs a step, warm-up and cosine."""

    epochs: float = 1.0
    batch_size: int = 8  # pairs of one forward pass, and of the statistics of amapo and gamma_po
    accumulate: int = 16  # forward passes of one step
    learning_rate: float | None = None  # None: 1e-6, or 1e-5 for an adapter
    max_steps: int | None = None  # instead of epochs
    max_length: int | None = None  # tokens of prompt and completion; None: the run's scoring.max_length
    seed: int = 0
    lora: bool = False

    def arguments(self, folder: str, max_length: int, parameters: dict[str, float]) -> DPOConfig:
        """Quiet ones: no reports, no bars, no checkpoints. Parameters: of the objective."""
        on_gpu = torch.cuda.is_available()
        rate = self.learning_rate
        return DPOConfig(
            output_dir=folder,
            num_train_epochs=self.epochs,
            max_steps=self.max_steps or -1,
            per_device_train_batch_size=self.batch_size,
            gradient_accumulation_steps=self.accumulate,
            learning_rate=(1e-5 if self.lora else 1e-6) if rate is None else rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            max_length=max_length,
            beta=parameters.get("beta", 0.1),  # of TRL's own loss
            seed=self.seed,
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
