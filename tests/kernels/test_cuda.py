"""What only a GPU shows: the compiled kernels agree with the definition, and two runs give the same bits."""

import pytest
import torch

from cherimoya import Cherimoya
from cherimoya.cheri import HAS_TRITON, CheriBlock, fused_dilated_conv_norm
from cherimoya.kernels import reference

pytestmark = [
	pytest.mark.cuda,
	pytest.mark.triton,
	pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
	pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed"),
]

SHAPES = [
	(1, 1, 8, 1, 2),
	(2, 65, 16, 3, 1),
	(3, 130, 40, 200, 2),
	(2, 257, 96, 16, 2),
	(1, 2114, 96, 256, 2),
	(2, 128, 128, 4, 3),
	(2, 300, 192, 8, 2),
	(1, 100, 256, 8, 2),
	(64, 2114, 128, 32, 2),
]


@pytest.fixture
def check():
	pytest.importorskip("triton")
	from cherimoya.kernels import check

	device, description = check.find_device()
	if device is None:
		pytest.skip(description)
	return check


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_path_agrees_and_repeats(check, shape, dtype):
	results = check.compare(torch.device("cuda"), shapes=[shape], dtypes=[dtype])
	assert results and all(r.ok for r in results), check.table(results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_model_agrees_with_the_cpu(dtype):
	model = Cherimoya(n_filters=32, n_layers=4, random_state=0)
	with torch.no_grad():
		for p in model.parameters():
			p.mul_(5)
	x = torch.nn.functional.one_hot(torch.randint(4, (3, 401)), 4).transpose(1, 2).float()
	expected = model(x)
	with torch.no_grad():
		found = model.to("cuda", dtype)(x.to("cuda", dtype))
	for a, b in zip(found, expected, strict=True):
		assert (a.cpu().float() - b).norm() / b.norm() < (1e-2 if dtype == torch.float32 else 5e-2)


def test_autocast_and_compile_train():
	model = Cherimoya(n_filters=16, n_layers=3, random_state=0).cuda()
	x = torch.nn.functional.one_hot(torch.randint(4, (2, 301), device="cuda"), 4).transpose(1, 2).float()
	assert model.blocks[0].path(torch.zeros(2, 9, 16, device="cuda")) == "training"
	gradients = []
	for function in (model, torch.compile(model)):
		model.zero_grad()
		with torch.autocast("cuda", dtype=torch.bfloat16):
			profile, counts = function(x)
		(profile.float().square().mean() + counts.float().square().mean()).backward()
		gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
	for a, b in zip(*gradients, strict=True):
		assert a.isfinite().all()
		torch.testing.assert_close(a, b, rtol=0.05, atol=0.05 * b.abs().max().item())


def test_what_the_kernels_cannot_take_falls_back():
	x = torch.randn(2, 30, 4, device="cuda")
	block = CheriBlock(4, 2).cuda()
	assert block.path(x) == "modules"
	weights = [p.double() for p in block.parameters()]
	expected = reference.block(x.double(), *weights, 2, block.residual_scale)
	assert (block(x).double() - expected).norm() / expected.norm() < 1e-3
	wide = torch.randn(2, 30, 4, device="cuda", dtype=torch.float64)
	w = torch.randn(3, 4, device="cuda", dtype=torch.float64)
	torch.testing.assert_close(fused_dilated_conv_norm(wide, w, 2), reference.conv_norm(wide, w, 2))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_the_second_gpu_computes_on_itself(check):
	results = check.compare(torch.device("cuda", 1), shapes=[(2, 257, 96, 16, 2)])
	assert all(r.ok for r in results), check.table(results)
