"""Lookups that an entity declares: references to another source's dimension members by their key or an attribute."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from warehouse.errors import DeclarationError
from warehouse.model.declaration import Dimension, Fact, Target


@dataclass(frozen=True)
class Lookup:
    """Declares that `<dimension>_id` in an entity's SQL is the attribute `by` of members that `source` has loaded.

    The version valid at the event counts. If no member has the value, one is inferred in the entity's own source, and
    its facts are re-keyed when the member arrives. If several members have it, the fact refers to the unknown member.
    An entity may have several lookups of a dimension, in order of precedence: the first source with the value counts.
    """

    dimension: str
    source: str
    by: str


class LookupSpec(BaseModel):
    """[entities.NAME.lookups.DIMENSION]"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
        Field(min_length=1),
    ]
    by: Annotated[str, Field(min_length=1)] | None = None


def parse_lookups(
    specs: Mapping[str, LookupSpec], target: Target, dimensions: Mapping[str, Dimension], where: str
) -> tuple[Lookup, ...]:
    """Validate the lookups that an entity declares. Returns one for each source, in order of precedence.

    Raises:
        DeclarationError: the target does not refer to the dimension, or the dimension has no such attribute.
    """
    lookups = []
    names = [one.dimension for one in target.refers_to] if isinstance(target, Fact) else []
    for name, spec in specs.items():
        if name not in names:
            raise DeclarationError(
                f"{where} looks up '{name}', which {target.entity} does not refer to.",
                hint=f"It refers to: {', '.join(names)}." if names else "Only facts refer to dimensions.",
            )
        dimension = dimensions[name]
        (natural,) = dimension.natural_key
        by = spec.by or natural
        if by not in (natural, *dimension.attributes):
            raise DeclarationError(
                f"{where} looks up {name} by '{by}', which {dimension.table} does not have.",
                hint=f"Use one of: {', '.join((natural, *dimension.attributes))}.",
            )
        lookups += [Lookup(name, source, by) for source in dict.fromkeys(spec.source)]
    return tuple(lookups)
