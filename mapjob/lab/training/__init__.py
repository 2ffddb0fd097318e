"""Training on a selection: the objectives of the field on TRL's DPO trainer, without a reference model."""
