"""Compares an environment's budget for 1,000 requests with what the verifier measured and signed.

Only figures of the class of machine that the policy names count, because times and energy of another machine say
nothing about this one. A figure that has a bound and was not measured is a failure.
"""

from collections.abc import Iterator

from checks.config.release_params import ServingBudget
from checks.formats.serving import LONG_ENOUGH, Throughput

AGAIN = "run `lockstep verify` on such a machine, then `lockstep sign`"


def failures(
    budget: ServingBudget, found: Throughput | None, environment: str
) -> Iterator[tuple[str, str]]:
    """Yield each failure with what to do."""
    wanted = budget.machine
    if found is None:
        yield (
            f"the serving report has no throughput, which the budget of {environment} needs",
            AGAIN,
        )
        return
    if found.machine != wanted:
        where = found.machine or "a machine that is not known"
        yield (
            f"throughput was measured on {where}, but the budget of {environment} is for {wanted}",
            AGAIN,
        )
        return
    if found.seconds < LONG_ENOUGH:
        yield (
            f"its throughput was measured for {found.seconds:g} s, which is less than {LONG_ENOUGH:g} s",
            AGAIN,
        )
        return
    less = f"make the model or its runtime faster, or have code owners raise promote.environments.{environment}.budget"
    if budget.watt_hours is not None:
        if (hours := found.watt_hours) is None:
            yield f"its energy was not measured: {'; '.join(found.energy.missing)}", AGAIN
        elif hours > budget.watt_hours:
            yield f"1,000 requests take {hours:.4g} Wh, above {budget.watt_hours:g}", less
    if budget.price is not None and budget.hourly_price is not None:
        price = found.price(budget.hourly_price)
        if price > budget.price:
            yield f"1,000 requests cost {price:.4g}, above {budget.price:g}", less


def said(budget: ServingBudget, found: Throughput) -> str:
    """The figures that have a bound, on one line."""
    parts = []
    if budget.watt_hours is not None and found.watt_hours is not None:
        parts.append(f"{found.watt_hours:.4g} Wh, at most {budget.watt_hours:g}")
    if budget.price is not None and budget.hourly_price is not None:
        parts.append(f"price {found.price(budget.hourly_price):.4g}, at most {budget.price:g}")
    return f"1,000 requests on {found.machine}: {'; '.join(parts)}"
