"""What the commands of `tasklease policy` have in common: their arguments, and reading what they name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from broker.adapters.policy.cedar import CedarPolicies
from broker.adapters.policy.reading import PolicyFilesError
from broker.cli.output import fail
from broker.config.catalog import load_catalog
from broker.config.reading import ConfigError
from broker.domain.catalog import Catalog

WITHOUT: Final = "example.test"
"""The trust domain of classes that name none, where it does not matter."""

FolderArgument = Annotated[
    Path, typer.Argument(help="A folder of .cedar files, with .test.yaml files beside them.")
]
CatalogOption = Annotated[
    Path, typer.Option("--catalog", help="The catalog: a YAML file, or a folder of them.")
]
DomainOption = Annotated[
    str, typer.Option("--trust-domain", help="The broker's own, for classes that name none.")
]


def catalog_of(path: Path, trust_domain: str) -> Catalog:
    """The catalog; ends the command with exit code 2 where it cannot be used."""
    try:
        return load_catalog(path, trust_domain=trust_domain)
    except ConfigError as error:
        fail(str(error), code=2)


def policies_of(folder: Path, catalog: Catalog) -> CedarPolicies:
    """The policies; ends the command with exit code 2 where they cannot be used."""
    try:
        return CedarPolicies.load(folder, catalog)
    except PolicyFilesError as error:
        fail(str(error), code=2)
