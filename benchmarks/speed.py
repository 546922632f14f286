"""Seconds per frame: FrEN beside the e4e-format encoder and ViEN, MobileStyleGAN-1024 beside StyleGAN2-1024.

python benchmarks/speed.py [--rounds 5] [--threads N] [--device cpu]

They take turns in one run, so that what else the machine does meets all of them; of each pair the median of the
ratios is printed. The e4e-format encoder and StyleGAN2 carry the random weights of their conformance cases, in the
published shapes: they take the same time as trained ones, and their pictures mean nothing. Last come renders with
their gradient in processes of their own, with freed memory kept (``services/memory.py``) and given back, in CPU
seconds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "tests"))

from conformance_cases import case, tensors

from modules.encoders.irse import StyleEncoder
from modules.encoders.video_vit import load_video_encoder
from modules.encoders.vit import load_frame_encoder
from modules.generators import load_generator
from modules.generators.stylegan2 import StyleGAN2
from services.memory import keep_freed_memory
from services.pipeline.encoders import SHIPPED

Call = Callable[[], object]


def timed(call: Call, device: str) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    with torch.no_grad():
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(pairs: dict[str, tuple[str, Call, str, Call]], rounds: int, device: str) -> None:
    """Let all calls take turns for some rounds after one to warm up, and print times and ratios."""
    calls = {name: call for ours, a, theirs, b in pairs.values() for name, call in ((ours, a), (theirs, b))}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            passed = timed(call, device)
            if number:
                seconds[name].append(passed)
    for what, (ours, _, theirs, _) in pairs.items():
        ratio = statistics.median(b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True))
        a, b = statistics.median(seconds[ours]), statistics.median(seconds[theirs])
        print(f"  {what}: {ours} {a:.3f} s per frame, {theirs} {b:.3f} s, {ratio:.2f} times as long", flush=True)


def seconds_of_render(renders: int) -> float:
    """CPU seconds of one forward and backward of MobileStyleGAN-1024 in bfloat16, the least of some."""
    mobile = load_generator()
    mobile.compute_dtype = torch.bfloat16
    ws = mobile.w_mean.expand(1, mobile.num_ws, -1).clone().requires_grad_()
    seconds = []
    for _ in range(renders):
        started = time.process_time()
        mobile.synthesize(ws, resolution=256).square().mean().backward()
        seconds.append(time.process_time() - started)
    return min(seconds)


def compare_memory(rounds: int, threads: int) -> None:
    """Print the time of a render with freed memory kept and given back, by turns in fresh processes."""
    seconds: dict[str, list[float]] = {"kept": [], "returned": []}
    for _ in range(rounds):
        for memory, found in seconds.items():
            command = [sys.executable, __file__, "--render", memory, "--threads", str(threads)]
            found.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    kept, returned = min(seconds["kept"]), min(seconds["returned"])
    print(
        f"a render and its gradient, bfloat16, CPU seconds: {kept:.3f} with freed memory kept, {returned:.3f} "
        f"with it given back, {returned / kept:.2f} times as long"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--render", choices=("kept", "returned"), help="used by this script itself")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.render:
        if given.render == "kept" and not keep_freed_memory():
            raise SystemExit("this C library's malloc cannot be told to keep memory")
        print(seconds_of_render(2 * given.rounds))
        return
    device = given.device
    mobile = load_generator(device=device)
    opened = case("stylegan2-ffhq-1024")
    style2 = StyleGAN2.from_state(tensors(opened), opened.json["init"]).eval().to(device)
    e4e = StyleEncoder.from_state(tensors(case("e4e-ffhq-1024-encoder")), "e4e").eval().to(device)
    fren = load_frame_encoder(SHIPPED["frame"], mobile.sha256).to(device)
    vien = load_video_encoder(SHIPPED["video"], fren, mobile.sha256).to(device)
    frame = torch.rand(1, 3, 256, 256, device=device) * 2 - 1
    ws = mobile.w_mean.expand(1, mobile.num_ws, -1).contiguous()
    _, before = vien(frame)
    ws2 = torch.randn(1, style2.num_ws, style2.w_dim, device=device)
    count = {name: sum(p.numel() for p in net.parameters()) / 1e6
             for name, net in [("FrEN", fren), ("ViEN", vien.video), ("e4e-format", e4e),
                               ("MobileStyleGAN-1024", mobile), ("StyleGAN2-1024", style2)]}  # fmt: skip
    # Frozen, so they are buffers.
    nets = fren.face_nets.identity if fren.face_nets else torch.nn.Module()
    count["face nets that FrEN asks"] = sum(buffer.numel() for buffer in nets.buffers()) / 1e6
    print(f"{device}, {torch.get_num_threads()} threads, one frame at a time, {given.rounds} rounds; parameters: "
          + ", ".join(f"{name} {millions:.1f} M" for name, millions in count.items()))  # fmt: skip
    for dtype in (torch.float32, torch.bfloat16):
        mobile.compute_dtype = dtype
        cast = torch.autocast(torch.device(device).type, dtype) if dtype is torch.bfloat16 else nullcontext()

        def eager(net: Callable[[Tensor], object], x: Tensor, cast=cast) -> Call:
            def call() -> object:
                with cast:
                    return net(x)

            return call

        print(f"{str(dtype).removeprefix('torch.')}:")
        compare(
            {
                "encoder": ("FrEN", eager(fren, frame), "the e4e-format encoder", eager(e4e, frame)),
                "video encoder": ("FrEN", eager(fren, frame), "ViEN", eager(lambda x: vien(x, before), frame)),
                "synthesis": (
                    "MobileStyleGAN-1024", lambda: mobile.synthesize(ws),
                    "StyleGAN2-1024", eager(style2.synthesize, ws2),
                ),
            },
            given.rounds,
            device,
        )  # fmt: skip
    if device == "cpu":
        compare_memory(min(given.rounds, 3), given.threads)


if __name__ == "__main__":
    main()
