"""Measures others' implementations of what `xlstm bench` measures, in the same run and on the same device.

Reads {"device", "compute", "min_seconds", "works": [...], "done": [[index, implementation], ...]} from standard input and writes a
line of JSON as each measurement begins and one with its result, but for those that are done: whoever started this may start it again
after a measurement that ended the process. Models come from transformers by their config.json, compiled where that works; cells from
torch and, where they are installed, mlstm_kernels and flashrnn; an xLSTM of 7B's kind also from the package xlstm. What cannot be
measured says why in one line.
"""

import contextlib
import gc
import json
import statistics
import sys
import time


def tell(index, implementation, **fields):
    print(json.dumps({"index": index, "implementation": implementation, **fields}), flush=True)


def reason(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    sys.exit(f"PyTorch is not installed for {sys.executable}: {error}")


def version(*packages):
    from importlib.metadata import PackageNotFoundError, version as of

    found = [f"PyTorch {torch.__version__}"]
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package} {of(package)}")
    return ", ".join(found)


class Bench:
    """Clock, memory and types of one device."""

    def __init__(self, device, compute, min_seconds):
        self.device = torch.device(device)
        self.cuda = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if compute == "bf16" else torch.float32
        self.min_seconds = min_seconds

    def wait(self):
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def median(self, call):
        """Median seconds of call(k); on a GPU between events of the stream."""
        start, calls = time.perf_counter(), 0
        while calls < 3 or (calls < 1000 and time.perf_counter() - start < self.min_seconds / 4):
            begin = time.perf_counter()
            call(calls)
            self.wait()
            last, calls = time.perf_counter() - begin, calls + 1
        group = max(1, min(50, int(0.05 / last)))
        times, start = [], time.perf_counter()
        while len(times) < 5 or time.perf_counter() - start < self.min_seconds:
            if times and time.perf_counter() - start > 5 * self.min_seconds:
                break
            if not self.cuda:
                begin = time.perf_counter()
                call(calls)
                times.append(time.perf_counter() - begin)
                calls += 1
                continue
            pairs = []
            for _ in range(group):
                pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
                pair[0].record()
                call(calls)
                pair[1].record()
                pairs.append(pair)
                calls += 1
            self.wait()
            times += [a.elapsed_time(b) / 1e3 for a, b in pairs]
        return statistics.median(times)

    def mean(self, call, warm_up=5):
        """Mean wall seconds of call()."""
        for _ in range(warm_up):
            call()
        self.wait()
        start, count = time.perf_counter(), 0
        while count < 5 or time.perf_counter() - start < self.min_seconds:
            call()
            count += 1
            if count % 8 == 0:
                self.wait()
        self.wait()
        return (time.perf_counter() - start) / count

    def reset_peak(self):
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self):
        return torch.cuda.max_memory_reserved(self.device) if self.cuda else None


def cell(bench, index, name, versions, forward, inputs, size, other=False):
    """Forward, and forward and backward, of one cell; inputs() ends with the gradient of the output."""
    bench.reset_peak()
    sets = [inputs() for _ in range(1 + int(max(1, min(7, 256e6 / size))))]

    def run(k, backward):
        *leaves, gradient = sets[k % len(sets)]
        if not backward:
            with torch.no_grad():
                forward(*leaves)
            return
        leaves = [t.detach().requires_grad_() for t in leaves]
        forward(*leaves).backward(gradient)

    seconds = bench.median(lambda k: run(k, False))
    both = bench.median(lambda k: run(k, True))
    tell(index, name, versions=versions, forward_seconds=seconds, training_seconds=both, other_work=other)


def mlstm(bench, index, work):
    b, nh, s, dk, dv = (work[key] for key in ("batch", "heads", "length", "qk_head_dim", "v_head_dim"))

    def tensor(dim):
        return torch.randn(b, nh, s, dim, device=bench.device).to(bench.dtype)

    size = b * nh * s * 4 * (dk + dv)
    width = min(dv, 256)
    if work["gate"] == "exponential":
        attempt(index, f"attention, heads of {width}", lambda name: cell(
            bench, index, name, version(), lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
            lambda: [tensor(width) for _ in range(4)], size, other=True))

    def gates():
        return [torch.randn(b, nh, s, device=bench.device), torch.randn(b, nh, s, device=bench.device) + 3]

    kernels = ["chunkwise--triton_xl_chunk_siging"] if work["gate"] == "sigmoid" else ["chunkwise--triton_xl_chunk", "chunkwise--triton_limit_chunk"]
    for kernel in kernels:
        for chunk in (64,) if "limit" in kernel else (128, 256):
            def measure(name, kernel=kernel, chunk=chunk):
                from mlstm_kernels.torch import get_mlstm_kernel

                function = get_mlstm_kernel(kernel)

                def forward(q, k, v, i, f):
                    h = function(q=q, k=k, v=v, i=i, f=f, return_last_states=False, chunk_size=chunk)
                    return h[0] if isinstance(h, tuple) else h

                cell(bench, index, name, version("mlstm_kernels", "triton"), forward,
                     lambda: [tensor(dk), tensor(dk), tensor(dv), *gates(), tensor(dv)], size)

            attempt(index, f"{kernel.split('--')[1]}, chunk {chunk}", measure)


def slstm(bench, index, work):
    b, s, nh, d = (work[key] for key in ("batch", "length", "heads", "head_dim"))

    def tensor(*shape, scale=1.0):
        return torch.randn(*shape, device=bench.device).mul(scale).to(bench.dtype)

    for backend in ("cuda", "cuda_fused"):
        def measure(name, backend=backend):
            from flashrnn import flashrnn

            def forward(x, recurrent, bias):
                states, _ = flashrnn(x, recurrent, bias, function="slstm", backend=backend, dtype=str(bench.dtype).split(".")[1])
                return states[0]

            cell(bench, index, name, version("flashrnn"), forward,
                 lambda: [tensor(b, s, 4, nh, d), tensor(4, nh, d, d, scale=d**-0.5), tensor(4, nh, d), tensor(b, s, nh, d)], b * s * nh * d * 10)

        attempt(index, f"flashrnn, {backend}", measure)


DONE = set()


def attempt(index, name, measure):
    """A measurement that fails says so and ends nothing."""
    if (index, name) in DONE:
        return
    tell(index, name, begins=True)
    try:
        measure(name)
    except ImportError as error:
        tell(index, name, remark=f"not installed: {error}")
    except Exception as error:
        tell(index, name, remark=reason(error))
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def transformers_model(bench, config, training):
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    transformers.logging.set_verbosity_error()
    config = {key: value for key, value in config.items() if key not in ("architectures", "transformers_version", "torch_dtype", "dtype")}
    model = config.pop("model_type")
    with bench.device:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model, **config), dtype=torch.float32 if training else bench.dtype)
    return model.to(bench.device).train(training), lambda output: output.logits


def nxai_model(bench, config, training):
    from xlstm.xlstm_large.model import xLSTMLarge, xLSTMLargeConfig

    names = ("embedding_dim", "num_heads", "num_blocks", "vocab_size", "qk_dim_factor", "v_dim_factor", "ffn_proj_factor")
    triton = bench.cuda
    config = xLSTMLargeConfig(
        **{name: config[name] for name in names if name in config},
        chunk_size=128 if triton else 64,
        return_last_states=not training,
        mode="train" if training else "inference",
        chunkwise_kernel="chunkwise--triton_xl_chunk" if triton else "chunkwise--native_autograd",
        sequence_kernel="native_sequence__triton" if triton else "native_sequence__native",
        step_kernel="triton" if triton else "native",
        autocast_kernel_dtype="bfloat16" if bench.dtype == torch.bfloat16 else "float32",
    )
    model = xLSTMLarge(config).to(bench.device, torch.float32 if training else bench.dtype)
    return model.train(training), lambda output: output[0] if isinstance(output, tuple) else output


def implementations(config):
    found = [(config["model_type"] + " of transformers", transformers_model, version("transformers"))]
    if config["model_type"] == "xlstm":
        found.insert(0, ("xlstm_large", nxai_model, version("xlstm", "mlstm_kernels", "triton")))
    return found


def training(bench, index, work, make, versions, name, compiled):
    """A step as the trainer's: cross-entropy, clipping and AdamW, float32 weights, activations in the compute type."""
    model, logits = make(bench, work["config"], True)
    bench.reset_peak()
    vocabulary = work["config"]["vocab_size"]
    tokens = torch.randint(0, vocabulary, (work["batch"], work["context"] + 1), device=bench.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=bench.cuda)
    cast = torch.autocast(bench.device.type, bench.dtype) if bench.dtype == torch.bfloat16 else contextlib.nullcontext()

    def loss():
        with cast:
            out = logits(model(tokens[:, :-1]))
        return F.cross_entropy(out.float().flatten(0, 1), tokens[:, 1:].flatten())

    compute = torch.compile(loss) if compiled else loss

    def step():
        compute().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds = bench.mean(step)
    tell(index, name, versions=versions, training_seconds=seconds, peak_bytes=bench.peak())


def prefill(bench, index, work, make, versions, name, compiled):
    model, logits = make(bench, work["config"], False)
    bench.reset_peak()
    tokens = torch.randint(0, work["config"]["vocab_size"], (work["batch"], work["length"]), device=bench.device)
    call = torch.compile(model) if compiled else model
    with torch.inference_mode():
        seconds = bench.median(lambda _: logits(call(tokens))[:, -1])
    tell(index, name, versions=versions, forward_seconds=seconds, peak_bytes=bench.peak())


def decode(bench, index, work, make, versions, name, compiled):
    """Token by token with the state or cache, greedy on the device, eager or compiled into a CUDA graph."""
    model, logits = make(bench, work["config"], False)
    bench.reset_peak()
    tokens = torch.randint(0, work["config"]["vocab_size"], (work["batch"], 16), device=bench.device)
    state = None

    @torch.inference_mode()
    def step():
        nonlocal tokens, state
        if make is nxai_model:
            out, state = model(tokens, state)
        else:
            # A cache goes by another name where it is a recurrent state.
            key = "past_key_values" if work["config"]["model_type"] == "llama" else "cache_params"
            result = model(tokens, use_cache=True, **({} if state is None else {key: state}))
            out, state = result.logits, getattr(result, key)
        tokens = out[:, -1:].argmax(-1)

    seconds = bench.mean(step, warm_up=8)
    tell(index, name, versions=versions, forward_seconds=seconds, peak_bytes=bench.peak())


def main():
    request = json.load(sys.stdin)
    bench = Bench(request["device"], request["compute"], request["min_seconds"])
    if bench.cuda and not torch.cuda.is_available():
        sys.exit(f"PyTorch {torch.__version__} sees no CUDA device")
    DONE.update((index, name) for index, name in request.get("done", []))
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    for index, work in enumerate(request["works"]):
        if work["kind"] == "mlstm":
            mlstm(bench, index, work)
        if work["kind"] == "slstm":
            slstm(bench, index, work)
        if work["kind"] not in ("training", "prefill", "decode"):
            continue
        measure = {"training": training, "prefill": prefill, "decode": decode}[work["kind"]]
        for name, make, versions in implementations(work["config"]):
            for compiled in (False, True) if bench.cuda and work["kind"] != "decode" else (False,):
                torch.compiler.reset()
                attempt(index, name + (", torch.compile" if compiled else ", eager" if bench.cuda else ""), lambda label, make=make, versions=versions,
                        compiled=compiled: measure(bench, index, work, make, versions, label, compiled))


if __name__ == "__main__":
    main()
