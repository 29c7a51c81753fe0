"""What the compiler made of every kernel: ``python -m tinygan.kernels.report``. It needs no GPU.

Registers, spills and stack are read from ptxas; how many blocks a
multiprocessor can hold follows from them, and nothing here is measured.
"""

import importlib
import pkgutil

from .compile import HERE, cubin_all
from .launch import LIMITS

ARCHITECTURES = (80, 90)
REGISTERS = 65536  # of a multiprocessor, for every architecture in LIMITS
COLUMNS = (
    *["kernel", "threads", "shared bytes", "sm", "registers", "spill bytes", "stack bytes"],
    *["blocks per multiprocessor", "limited by"],
)


def host_modules():
    """The modules of this package that launch kernels: those with a function ``instances``."""
    names = [info.name for info in pkgutil.iter_modules([str(HERE)]) if info.name != "report"]
    modules = [importlib.import_module(f"{__package__}.{name}") for name in names]
    return [module for module in modules if hasattr(module, "instances")]


def instances():
    """Every instance of every host module, each once."""
    return list(dict.fromkeys(i for module in host_modules() for i in module.instances()))


def blocks_per_multiprocessor(architecture, threads, registers, shared):
    """(blocks, what limits them): how many blocks a multiprocessor holds at a time.

    Registers go to warps in units of 256, and a quarter of them belongs to each of the four
    schedulers; shared memory goes to blocks in units of 128 bytes (256 before 8.0).

    Args:
        threads: of a block. registers: of a thread. shared: bytes of a block, static and dynamic.
    Source: cuda_occupancy.h of the CUDA toolkit.
    """
    limits = LIMITS[architecture]
    reserved, unit = (0, 256) if architecture < 80 else (1024, 128)  # bytes of each block
    warps = -(-threads // 32)
    of_warp = -(-max(1, registers) * 32 // 256) * 256
    fits = -(-warps // 4) * 4 * of_warp <= REGISTERS  # the hardware counts in fours here
    taken = -(-(shared + reserved) // unit) * unit
    found = {
        "blocks": limits.blocks,
        "threads": limits.threads // (32 * warps),
        "registers": REGISTERS // 4 // of_warp * 4 // warps if fits else 0,
        "shared memory": limits.shared // taken if taken else limits.blocks,
    }
    by = min(found, key=found.get)
    return found[by], by


def rows(every, architectures=ARCHITECTURES, jobs=None):
    """One tuple of :data:`COLUMNS` for each of the instances and each architecture, in this order.

    Raises: RuntimeError if a kernel does not compile, or there is neither NVRTC nor nvcc.
    """
    built = cubin_all([instance.kernel for instance in every], architectures, jobs)
    table = []
    for instance in every:
        for architecture in architectures:
            made = built[instance.kernel, architecture]
            shared = instance.shared + made.static_shared
            blocks = blocks_per_multiprocessor(
                architecture, instance.threads, made.registers, shared
            )
            spills = made.spill_stores + made.spill_loads
            row = (instance.threads, instance.shared, architecture, made.registers, spills)
            table.append((instance.kernel.name, *row, made.stack, *blocks))
    return table


def markdown(table):
    """The rows of :func:`rows` as a table in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" + "|---:" * (len(COLUMNS) - 2) + "|---|"]
    for name, *others in table:
        lines.append(f"| `{name}` | " + " | ".join(map(str, others)) + " |")
    return "\n".join(lines) + "\n"


def _plain(table):
    texts = [tuple(map(str, row)) for row in [COLUMNS, *table]]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "".join(
        "  ".join(
            text.ljust(width) if i in (0, len(row) - 1) else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        + "\n"
        for row in texts
    )


def main(arguments=None):
    """The command line: prints the table, or writes it as Markdown."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m tinygan.kernels.report", description=__doc__)
    parser.add_argument("--markdown", metavar="FILE", help="write the table there, not the screen")
    parser.add_argument(
        "--sm", type=int, nargs="+", choices=sorted(LIMITS), default=ARCHITECTURES, metavar="SM"
    )
    parser.add_argument("--jobs", type=int, help="kernels compiled at a time; all processors")
    given = parser.parse_args(arguments)
    table = rows(instances(), tuple(given.sm), given.jobs)
    if given.markdown:
        with open(given.markdown, "w", encoding="utf-8") as file:
            file.write(markdown(table))
    else:
        print(_plain(table), end="")


if __name__ == "__main__":
    main()
