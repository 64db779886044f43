"""Training and evaluation; importing this package alone loads neither torch nor numpy."""

from importlib import import_module

_HOMES = {
	"TrainingOptions": "options",
	"fit": "loop",
	"History": "loop",
	"training_loss": "trainer",
	"join": "distributed",
	"Ranks": "distributed",
	"init_from": "transfer",
	"split_parameters": "optimizers",
	"build_optimizers": "optimizers",
	"build_schedulers": "optimizers",
	"warmup_cosine": "optimizers",
	"planned_epochs": "optimizers",
	"evaluate": "evaluation",
	"Evaluation": "evaluation",
	"fit_baselines": "evaluation",
	"Baselines": "evaluation",
	"write_performance": "evaluation",
	"check_fits_data": "evaluation",
	"fit_problems": "evaluation",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
	"""Import a public name from its home at its first use."""
	if name in _HOMES:
		return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
	raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
	return __all__
