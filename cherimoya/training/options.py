"""Everything that can be chosen about a training run, declared once. Imports neither torch nor numpy."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]


class TrainingOptions(BaseModel):
	"""How a model is trained: optimizers, schedule, stopping, sampling and precision."""

	model_config = ConfigDict(extra="forbid", validate_default=True)

	max_epochs: int = Field(
		50, ge=1, description="Most passes over the training loci.", json_schema_extra={"unit": "epochs"}
	)
	early_stopping: int | None = Field(
		15,
		ge=1,
		description="Stop after this many epochs without a better score; null: never.",
		json_schema_extra={"unit": "epochs"},
	)
	min_total_steps: int | None = Field(
		None,
		ge=1,
		description="Raise the number of epochs until at least this many steps are planned, for small data; "
		"null: no floor.",
		json_schema_extra={"unit": "steps"},
	)
	batch_size: int = Field(64, ge=1, description="Examples a batch.", json_schema_extra={"unit": "examples"})
	muon_lr: Rate = Field(0.025, description="Peak learning rate of Muon (the blocks' projections).")
	muon_wd: Decay = Field(0.01, description="Weight decay of Muon.")
	adam_lr: Rate = Field(0.004, description="Peak learning rate of AdamW (everything else).")
	adam_wd: Decay = Field(0.2, description="Weight decay of AdamW.")
	n_warmup_epochs: int = Field(
		5,
		ge=0,
		description="Epochs over which the rates rise from 1 % to their peak.",
		json_schema_extra={"unit": "epochs"},
	)
	ema_decay: float = Field(
		0.999,
		ge=0,
		lt=1,
		description="Decay of the average of the weights that is validated and saved; "
		"ramped as min(decay, (1 + t) / (10 + t)).",
	)
	loss_weights: tuple[Decay, Decay] | None = Field(
		None, description="Fixed weights [profile, count] of the two losses; null: learned during training."
	)
	select_on: Literal["count_pearson", "profile_pearson", "profile_mnll", "count_mse", "loss"] = Field(
		"count_pearson",
		description="Validation measure whose best epoch is kept (mean over groups); loss: log(profile loss) + "
		"log(count loss), or with loss_weights their weighted sum.",
	)
	dtype: Literal["float32", "bfloat16", "float16"] = Field(
		"float32", description="Precision of the forward pass; the 16-bit ones use autocast."
	)
	gradient_clip: float | None = Field(
		None,
		gt=0,
		description="Largest norm of the gradient of all weights together, above which it is scaled down; null: never.",
	)
	gradient_accumulation: int = Field(
		1,
		ge=1,
		description="Parts that each batch is split into to save memory; the step is that of the whole batch.",
		json_schema_extra={"unit": "parts"},
	)
	freeze: list[str] | None = Field(
		None,
		min_length=1,
		description="Parts of the model that stay as they are: stem, blocks, blocks.2, blocks.0-3, profile_head, "
		"count_head; null: none.",
		json_schema_extra={"expects": 'a list of parts, such as ["stem", "blocks.0-3"]'},
	)
