"""The Cherimoya model: DNA sequence to a profile of reads (as logits) and their number (as a log)."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from cherimoya.checkpoint import check_state_dict, load_checkpoint, save_checkpoint
from cherimoya.cheri import CheriBlock, Linear
from cherimoya.ema import EMA
from cherimoya.errors import InputError, SettingsError, join_problems
from cherimoya.groups import check_signal_groups

if TYPE_CHECKING:
	from cherimoya.interpret._batches import Array
	from cherimoya.interpret.predict import Prediction
	from cherimoya.training import History

__all__ = ["EMA", "Cherimoya"]

STEM_WIDTH = 21
# Margin of the default trimming beside the blocks' reach: the stem's and the head's context, with room to spare.
STEM_MARGIN = 46


class Conv1d(nn.Conv1d):
	"""A convolution whose weights its owner draws; torch's own draws would come from the global generator."""

	def reset_parameters(self) -> None:
		"""Draw nothing."""


class Cherimoya(nn.Module):
	"""A compact convolutional network from sequence to profile logits and log counts.

	A stem (convolution of width 21, GELU), `n_layers` Cheri blocks with dilations 1, 2, 4, …, and two heads: a
	convolution for the profile, and a linear layer on the mean over positions for log(1 + counts).

	Parameters
	----------
	n_filters: int
		C, channels of every block. Default 96.
	n_layers: int
		Number of blocks; block i has dilation 2**i. Default 9.
	n_outputs: int
		T, number of profile channels. Default 1.
	n_control_tracks: int
		Control channels, summed over all control groups. Default 0.
	expansion: int
		Relative width of a block's hidden layer. Default 2.
	residual_scale: float
		Factor of each block's contribution. Default 0.15.
	name: str or None
		Used in file names. None (default): ``"cherimoya.{n_filters}.{n_layers}"``.
	trimming: int or None
		Positions cut from each side. None (default): 46 + sum of the dilations; 557 bp for 9 layers.
	single_count_output: bool
		One count for all channels (True, default), or one a channel.
	verbose: bool
		Kept for old checkpoints; the library prints nothing. Default True.
	signal_groups: sequence of int or None
		Channels of each group, such as ``[1, 2]`` for an unstranded track and a (+, −) pair. None (default): worked
		out from n_outputs and single_count_output, which it decides when given.
	profile_kernel_size: int
		Odd width of the profile head's convolution. Default 1.
	random_state: int or None
		Seed of the weights, drawn from a generator of the model's own; None (default): seeded by the system.
	compile: bool
		Run forward through torch.compile, from the first call on. Default False. Never stored in a checkpoint.

	Attributes
	----------
	signal_groups: tuple[int, ...]
	n_outputs: int
		T, the sum of signal_groups.
	n_groups: int
		G, the number of groups and of count outputs.
	source: str or None
		The file that the model was loaded from, and its format; None for a model that was made here.

	Raises
	------
	ValueError
		If an argument is out of range, or arguments contradict each other.
	"""

	def __init__(
		self,
		n_filters: int = 96,
		n_layers: int = 9,
		n_outputs: int = 1,
		n_control_tracks: int = 0,
		expansion: int = 2,
		residual_scale: float = 0.15,
		name: str | None = None,
		trimming: int | None = None,
		single_count_output: bool = True,
		verbose: bool = True,
		*,
		signal_groups: Sequence[int] | None = None,
		profile_kernel_size: int = 1,
		random_state: int | None = None,
		compile: bool = False,
	) -> None:
		super().__init__()
		_check_arguments(n_filters, n_layers, n_outputs, n_control_tracks, expansion, trimming, profile_kernel_size)
		self.n_filters = n_filters
		self.n_layers = n_layers
		self.n_control_tracks = n_control_tracks
		self.expansion = expansion
		self.residual_scale = float(residual_scale)
		self.name = f"cherimoya.{n_filters}.{n_layers}" if name is None else name
		self.trimming = STEM_MARGIN + sum(2**i for i in range(n_layers)) if trimming is None else trimming
		self.verbose = verbose
		self.signal_groups = _resolve_groups(n_outputs, single_count_output, signal_groups)
		self.n_outputs = sum(self.signal_groups)
		self.n_groups = len(self.signal_groups)
		self.single_count_output = self.n_groups == 1
		self.profile_kernel_size = profile_kernel_size

		features = n_filters + n_control_tracks
		pad = profile_kernel_size // 2
		self.iconv = Conv1d(4, n_filters, STEM_WIDTH, padding=STEM_WIDTH // 2, device="cpu")
		self.activation = nn.GELU(approximate="tanh")
		self.blocks = nn.ModuleList(CheriBlock(n_filters, 2**i, expansion, residual_scale) for i in range(n_layers))
		self.fconv = Conv1d(features, self.n_outputs, profile_kernel_size, padding=pad, device="cpu")
		self.linear = Linear(n_filters + (n_control_tracks > 0), self.n_groups, device="cpu")
		self.lw0 = nn.Parameter(torch.ones(self.n_groups, device="cpu"))
		self.lw1 = nn.Parameter(torch.ones(self.n_groups, device="cpu"))
		self.source: str | None = None
		self._use_compile = bool(compile)
		self._compiled: Any = None
		self.reset_parameters(random_state)

	def reset_parameters(self, random_state: int | None = None) -> None:
		"""Draw new weights: truncated normal of std 0.02, zero for biases, one for lw0 and lw1.

		Parameters
		----------
		random_state: int or None
			Seed. None (default): seeded by the system. The global generator is neither read nor moved.
		"""
		generator = torch.Generator()
		generator.seed() if random_state is None else generator.manual_seed(random_state)
		for layer in (self.iconv, self.fconv, self.linear):
			nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
			nn.init.zeros_(layer.bias)
		for block in self.blocks:
			block.reset_parameters(generator)
		nn.init.ones_(self.lw0)
		nn.init.ones_(self.lw1)

	@property
	def config(self) -> dict[str, Any]:
		"""The constructor arguments that a checkpoint records, as plain values."""
		return {
			"n_filters": self.n_filters,
			"n_layers": self.n_layers,
			"n_control_tracks": self.n_control_tracks,
			"expansion": self.expansion,
			"residual_scale": self.residual_scale,
			"name": self.name,
			"trimming": self.trimming,
			"verbose": self.verbose,
			"signal_groups": list(self.signal_groups),
			"profile_kernel_size": self.profile_kernel_size,
		}

	def forward(self, X: torch.Tensor, X_ctl: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
		"""Profile logits and log counts of a batch of sequences.

		Parameters
		----------
		X: torch.Tensor, shape=(N, 4, L)
			One-hot sequences, L > 2·trimming. Any number type; converted to the type of the weights.
		X_ctl: torch.Tensor or None, shape=(N, n_control_tracks, L)
			Control signal at the same positions, for models that have controls.

		Returns
		-------
		logits: torch.Tensor, shape=(N, T, L - 2·trimming)
			Not normalised.
		log_counts: torch.Tensor, shape=(N, G)
			log(1 + counts) of each group; in the type of the weights, under autocast too.

		Raises
		------
		ValueError
			If shapes do not fit the model, or controls are missing or not wanted.
		"""
		self._check_inputs(X, X_ctl)
		if not self._use_compile or torch.compiler.is_compiling():
			return self._forward(X, X_ctl)
		if self._compiled is None:
			self._compiled = torch.compile(self._forward)
		return self._compiled(X, X_ctl)

	def _forward(self, X: torch.Tensor, X_ctl: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
		"""`forward` after the checks."""
		return self._from_stem(self._stem(X.to(self.iconv.weight.dtype)), X_ctl)  # (N, 4, L) -> (N, L, C) in between

	def _from_stem(self, x: torch.Tensor, X_ctl: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
		"""Logits and log counts from the stem's output, (N, L, C), which is overwritten if gradients are off."""
		length = x.shape[1]
		x = self._trunk(x)  # (N, L, C) -> (N, out + 2 * margin, C)
		start, stop, margin = self._window(length)
		wide = None if X_ctl is None else X_ctl[..., start:stop]
		return self._profile_head(x, wide, margin), self._log_counts(x, X_ctl, length)

	def _window(self, length: int) -> tuple[int, int, int]:
		"""The positions [start, stop) that the heads see, and how many at either end only the profile head sees."""
		margin = min(self.trimming, self.profile_kernel_size // 2)
		return self.trimming - margin, length - self.trimming + margin, margin

	def _trunk(self, x: torch.Tensor) -> torch.Tensor:
		"""The blocks' output where the heads see it, (N, out + 2 * margin, C), from the stem's, (N, L, C)."""
		start, stop, _ = self._window(x.shape[1])
		# Without gradients blocks may overwrite their input, unless somebody listens and may have kept it, or expects
		# the last block's whole output.
		plain = not torch.compiler.is_compiling() and not self._is_hooked()
		*blocks, last = self.blocks
		for block in blocks:
			x = block(x, inplace=plain and not torch.is_grad_enabled())
		return last(x, keep=(start, stop)) if plain else last(x)[:, start:stop]

	def _log_counts(self, x: torch.Tensor, X_ctl: torch.Tensor | None, length: int) -> torch.Tensor:
		"""The count head's log counts, (N, G), from what `_trunk` gave of inputs of that length."""
		_, _, margin = self._window(length)
		inner = x[:, margin : x.shape[1] - margin]  # (N, out + 2 * margin, C) -> (N, out, C)
		return self._count_head(inner, None if X_ctl is None else X_ctl[..., self.trimming : length - self.trimming])

	def _stem(self, X: torch.Tensor, padding: int = STEM_WIDTH // 2) -> torch.Tensor:
		"""Convolution and GELU. A 2-d convolution in channels-last memory writes the blocks' layout at once."""
		X = X.unsqueeze(2).contiguous(memory_format=torch.channels_last)  # (N, 4, L) -> (N, 4, 1, L)
		weight = self.iconv.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)  # -> (C, 4, 1, 21)
		x = F.conv2d(X, weight, self.iconv.bias, padding=(0, padding))  # -> (N, C, 1, L)
		x = x.squeeze(2).transpose(1, 2)  # (N, C, 1, L) -> (N, L, C)
		return self.activation(x.contiguous())

	def _profile_head(self, x: torch.Tensor, X_ctl: torch.Tensor | None, margin: int) -> torch.Tensor:
		"""The convolution `fconv` over the output window; x and X_ctl reach margin beyond it, zero from there on.

		A matrix product gives each position's contribution to every tap, (N, W, T, k), and out[l] is the sum over j of
		tap j at position l + j, a diagonal.
		"""
		k, n_filters = self.profile_kernel_size, self.n_filters
		weight = self.fconv.weight
		beyond = k // 2 - margin  # positions that the kernel reaches past the sequence's ends
		taps = weight[:, :n_filters].transpose(1, 2).reshape(-1, n_filters)  # (T, C, k) -> (T * k, C)
		p = F.linear(x, taps)  # (N, W, C) -> (N, W, T * k)
		if beyond:
			p = F.pad(p, (0, 0, beyond, beyond))
		n, width, both = p.shape
		strides = (width * both, k, both, both + 1)
		logits = p.contiguous().as_strided((n, self.n_outputs, width - k + 1, k), strides).sum(-1)  # -> (N, T, out)
		if X_ctl is not None:
			controls = F.pad(X_ctl.to(weight.dtype), (beyond, beyond))
			logits = logits + F.conv1d(controls, weight[:, n_filters:])
		return logits + self.fconv.bias.to(logits.dtype)[:, None]

	def _count_head(self, x: torch.Tensor, X_ctl: torch.Tensor | None) -> torch.Tensor:
		"""log(1 + counts) from the mean over the window and log(1 + all controls in it), outside of autocast."""
		dtype = torch.promote_types(x.dtype, torch.float32)
		features = x.sum(1, dtype=dtype) / x.shape[1]  # (N, out, C) -> (N, C); its gradient is cheaper than mean's
		if X_ctl is not None:
			total = X_ctl.sum((1, 2), dtype=dtype)[:, None]  # (N, n_control_tracks, out) -> (N, 1)
			features = torch.cat([features, torch.log1p(total)], dim=1)  # -> (N, C + 1)
		device = x.device.type
		with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
			return self.linear(features.to(self.linear.weight.dtype))  # -> (N, G)

	def save(self, path: str | os.PathLike) -> None:
		"""Write config and weights to the file `path`, atomically; InputError if it cannot be written."""
		save_checkpoint(path, self.config, self.state_dict())

	@classmethod
	def load(cls, path: str | os.PathLike, device: str | torch.device = "cpu", **runtime: bool) -> "Cherimoya":
		"""Read a model that this package, or a published release since 0.1.0, has written.

		Parameters
		----------
		path: str or os.PathLike
			A ``.torch`` file.
		device: str or torch.device
			Where the model goes. Default ``"cpu"``.
		**runtime: bool
			``verbose`` and ``compile``, which belong to the run and not to the model.

		Returns
		-------
		model: Cherimoya
			In the type that its weights were saved in, and in training mode, as any new module.

		Raises
		------
		MissingFileError
			If there is no such file.
		InputError
			If it is no checkpoint, holds pickled code (which is not run), or contradicts itself.
		SettingsError
			If there is no such device.
		TypeError
			If a run-time option is unknown.
		"""
		from cherimoya.interpret._batches import to_device

		unknown = sorted(set(runtime) - {"compile", "verbose"})
		if unknown:
			raise TypeError(f"Cherimoya.load takes the run-time options compile and verbose, got {', '.join(unknown)}")
		config, state_dict, written_by = load_checkpoint(path)
		try:
			model = cls(**{**config, **runtime}, random_state=0)
		except (TypeError, ValueError) as error:
			raise InputError(f"{path}: its config makes no model: {error}; save the model again") from error
		check_state_dict(path, model.state_dict(), state_dict)
		model.to(state_dict["iconv.weight"].dtype).load_state_dict(state_dict)
		model.source = f"{os.fspath(path)} ({written_by})"
		return model.to(to_device(device))

	def summary(self) -> str:
		"""What the model reads and predicts, and its parameters part by part, as text; see `cherimoya.summary`.

		Returns
		-------
		str
			Several lines, to be printed.
		"""
		from cherimoya.summary import summarize

		return summarize(self)

	def fit(self, *args: Any, **kwargs: Any) -> "History":
		"""Train the model: `cherimoya.training.fit` with this model as its first argument."""
		from cherimoya.training import fit

		return fit(self, *args, **kwargs)

	def predict(
		self,
		X: "Array",
		X_ctl: "Array | None" = None,
		batch_size: int | None = None,
		device: str | torch.device | None = None,
		dtype: str | torch.dtype | None = None,
		verbose: bool = False,
	) -> "Prediction":
		"""Logits and log counts of many sequences, batch by batch; see `cherimoya.interpret.predict.predict`.

		Parameters
		----------
		X: torch.Tensor or numpy.ndarray, shape=(n, 4, L) or (n, L)
			One-hot sequences of any dtype, or uint8 base codes (A, C, G, T = 0 to 3, anything else 4).
		X_ctl: torch.Tensor or numpy.ndarray or None, shape=(n, n_control_tracks, L)
			Control signal at the same positions, for models that have controls.
		batch_size: int or None
			Sequences at a time. None (default): as many as fit in the memory that is free, up to 64 on a CPU and 512
			on a GPU.
		device: str or torch.device or None
			Where to run. None (default): where the model is, and stays.
		dtype: str or torch.dtype or None
			``"bfloat16"`` or ``"float16"`` for autocast. None (default): that of the weights.
		verbose: bool
			Show a progress bar, on a terminal. Default False.

		Returns
		-------
		Prediction
			``logits`` (n, T, L - 2·trimming) and ``log_counts`` (n, G), on the CPU.

		Raises
		------
		ValueError
			If shapes do not fit the model, or not even one sequence fits in memory.
		"""
		from cherimoya.interpret.predict import predict

		return predict(self, X, X_ctl, batch_size=batch_size, device=device, dtype=dtype, verbose=verbose)

	def __getstate__(self) -> dict[str, Any]:
		"""What copies and pickles take: a compiled function would go on using the original's weights."""
		return {**self.__dict__, "_compiled": None}

	def _is_hooked(self) -> bool:
		"""Whether a forward hook on any module may have kept a tensor that passed through."""
		return any(m._forward_hooks or m._forward_pre_hooks for m in self.modules())

	def _check_inputs(self, X: torch.Tensor, X_ctl: torch.Tensor | None) -> None:
		"""InputError (a ValueError), naming the shapes, unless the inputs fit the model."""
		for name, x in (("X", X), ("X_ctl", X_ctl)):
			if not (isinstance(x, torch.Tensor) or (x is None and name == "X_ctl")):
				raise InputError(
					f"{name} must be a tensor, got {type(x).__name__}; convert it with torch.as_tensor, or call "
					"predict, which takes arrays too"
				)
		problems = []
		if X.ndim != 3 or X.shape[1] != 4:
			problems.append(f"X must have shape (N, 4, L), got {tuple(X.shape)}")
		elif X.shape[2] <= 2 * self.trimming:
			problems.append(
				f"X has shape {tuple(X.shape)}, but this model cuts {self.trimming} positions from each side; "
				f"give windows of more than {2 * self.trimming}"
			)
		expected = f"({X.shape[0]}, {self.n_control_tracks}, {X.shape[-1]})" if X.ndim else "()"
		if X_ctl is None and self.n_control_tracks:
			problems.append(f"the model has {self.n_control_tracks} control tracks; give X_ctl of shape {expected}")
		elif X_ctl is not None and not self.n_control_tracks:
			problems.append(
				f"the model has no control tracks, but X_ctl of shape {tuple(X_ctl.shape)} was given; leave it out"
			)
		elif X_ctl is not None and tuple(X_ctl.shape) != (X.shape[0], self.n_control_tracks, X.shape[-1]):
			problems.append(
				f"X_ctl must have shape {expected}, as X and the model's controls do, got {tuple(X_ctl.shape)}"
			)
		if problems:
			raise InputError(join_problems(problems))


def _check_arguments(
	n_filters: int,
	n_layers: int,
	n_outputs: int,
	n_control_tracks: int,
	expansion: int,
	trimming: int | None,
	profile_kernel_size: int,
) -> None:
	"""SettingsError (a ValueError) that lists every argument out of range."""
	least = {"n_filters": (n_filters, 1), "n_layers": (n_layers, 1), "n_outputs": (n_outputs, 1)}
	least |= {"n_control_tracks": (n_control_tracks, 0), "expansion": (expansion, 1)}
	least |= {"profile_kernel_size": (profile_kernel_size, 1)}
	if trimming is not None:
		least["trimming"] = (trimming, 0)
	problems = [
		f"{name} must be a whole number of at least {low}, got {value!r}"
		for name, (value, low) in least.items()
		if isinstance(value, bool) or not isinstance(value, int) or value < low
	]
	if isinstance(profile_kernel_size, int) and profile_kernel_size % 2 == 0:
		problems.append(f"profile_kernel_size must be odd, got {profile_kernel_size}")
	if problems:
		raise SettingsError(join_problems(problems))


def _resolve_groups(n_outputs: int, single_count_output: bool, signal_groups: Sequence[int] | None) -> tuple[int, ...]:
	"""The signal groups that the three arguments mean together; SettingsError where they contradict each other."""
	if signal_groups is None:
		return (n_outputs,) if single_count_output else (1,) * n_outputs
	groups = check_signal_groups(signal_groups)
	if n_outputs not in (1, sum(groups)):
		raise SettingsError(
			f"n_outputs is {n_outputs}, but signal_groups {list(groups)} add up to {sum(groups)} channels; "
			"leave n_outputs out"
		)
	if not single_count_output and any(g != 1 for g in groups):
		raise SettingsError(
			"single_count_output=False means one count a channel, but signal_groups "
			f"{list(groups)} ask for one a group; leave single_count_output out"
		)
	return groups
