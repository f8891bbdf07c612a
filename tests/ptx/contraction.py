"""Sums whose bits depend on the thread that computes them.

Threads that share a sum exchange their parts with butterfly shuffles: each adds what it gets to
what it has, and as a + b is b + a, all of them hold the same bits. Not where its own part is a
product: a contraction of product and addition, fma(x, y, what came), does not round the product,
which the other thread rounded before it sent it.

The compiler contracts some (there is an `fma`), and ptxas may contract others later (a `mul` and an
`add` that do not say how they round), which no execution here would show.
"""

_FLOATS = ("f32", "f64")


def contracted_sums(kernel) -> list[str]:
    """The instructions that add what a shuffle brought to a product that is not rounded."""
    came, products, found = set(), set(), []
    for block in kernel.blocks:
        for _, _, opcode, operands, _ in block.lines:
            name, *parts = opcode.split(".")
            if name == "shfl" and "bfly" in parts:
                came.add(operands[0].split("|")[0])
            elif name == "mov":
                # Float64 is sent in two halves, which a move joins.
                sources = _registers(operands[1])
                for group in (came, products):
                    if any(source in group for source in sources):
                        group.update(_registers(operands[0]))
            elif parts and parts[-1] in _FLOATS:
                result, *sources = operands
                rounded = "rn" in parts
                if name == "mul" and not rounded:
                    products.add(result)
                shuffled = [source in came for source in sources]
                if name == "fma" and any(shuffled):
                    found.append(f"{opcode} {', '.join(operands)}")
                if name in ("add", "sub") and not rounded and any(shuffled):
                    other = [s for s in sources if s not in came]
                    if any(source in products for source in other):
                        found.append(f"{opcode} {', '.join(operands)}")
    return found


def _registers(operand):
    return [name.strip() for name in operand.strip("{}").split(",")]
