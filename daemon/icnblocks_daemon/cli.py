"""`icn-edge`: reads the settings and hands over to the server. Imports little until it must."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from icnblocks.errors import IcnError, StorageError, UsageError
from icnblocks_daemon.config import ENV_PREFIX, Config, default_text, keys, load_config
from icnblocks_daemon.prefetch_cli import prefetch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EPILOG = f"""\b
Examples:
  icn-edge --store /srv/origin                             an origin
  icn-edge --store /srv/edge --upstream http://origin:4260 \\
           --capacity 20GB --listen 0.0.0.0:4260           an edge cache
Settings may stand in a TOML file (--config; keys as the options, with _), in variables
{ENV_PREFIX}* and in options; later ones win. docs/operations.md says more.
Exit codes: 0 stopped as asked, 2 wrong settings, 8 store of a newer version, 11 storage refused,
13 store in use.
"""


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """One option for each key of the configuration."""
    for key in reversed(keys()):
        meta, default = key.metadata, default_text(key)
        text = f"{meta['doc']}{f' [{default}]' if default else ''}"
        flag = f"--{key.name.replace('_', '-')}"
        option = click.option(
            flag, key.name, metavar=meta["metavar"], help=text, multiple=meta["many"]
        )
        command = option(command)
    return command


@click.group(
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--config", "config_file", metavar="FILE", help=f"TOML file of settings [${ENV_PREFIX}CONFIG]."
)
@click.option("--check-config", is_flag=True, help="Say whether the settings are right, and exit.")
@_options
@click.version_option(package_name="icnblocks", message="icn-edge %(version)s")
@click.pass_context
def icn_edge(
    context: click.Context, /, config_file: str | None, check_config: bool, **flags: Any
) -> None:
    """Serve named parameter blocks: an edge cache, or an origin when it has no upstream."""
    if context.invoked_subcommand is not None:
        return

    def read() -> Config:
        config = load_config(config_path(config_file, os.environ), os.environ, flags)
        _check_names(config)
        from icnblocks_daemon.preflight import preflight

        preflight(config)
        return config

    config = read()
    if check_config:
        click.echo("the settings are right")
        return
    early: list[int] = []  # signals that come before the server can obey them
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: early.append(number))
    from icnblocks_daemon.serve import serve

    context.exit(serve(config, read, early))


@icn_edge.command("print-unit")
@click.option("--exec", "path", metavar="PATH", help="Program to run [this installation's].")
def print_unit(path: str | None) -> None:
    """Print the systemd unit, with the ExecStart of this installation.

    icn-edge print-unit > /etc/systemd/system/icn-edge.service

    The unit does not see /home, /root, /tmp and /var/tmp: install below /opt or /usr/local.
    """
    from icnblocks_daemon.unit import obstacle, program, render_unit

    chosen = program() if path is None else path
    unit = render_unit(chosen)
    doubt = obstacle(chosen)
    if doubt:
        click.echo(f"icn-edge: warning: {doubt}", err=True)
    click.echo(unit, nl=False)


icn_edge.add_command(prefetch)


def config_path(flag: str | None, environ: Mapping[str, str]) -> Path | None:
    """--config, else ICN_EDGE_CONFIG, else edge.toml in systemd's ConfigurationDirectory."""
    if flag == "":  # an unset variable in a script must not mean other settings
        raise UsageError("--config names no file")
    named = flag or environ.get(f"{ENV_PREFIX}CONFIG")
    if named:
        return Path(named)
    folder = environ.get("CONFIGURATION_DIRECTORY")
    if not folder:
        return None
    found = Path(folder) / "edge.toml"
    try:
        found.lstat()
    except FileNotFoundError:
        return None
    except OSError:
        pass  # it may well be there: without it this would be another daemon, so it must be read
    return found


def _check_names(config: Config) -> None:
    """Names of policies and strategies are known only to their registries."""
    from icnblocks.cache.policy import make_policy
    from icnblocks_daemon.strategies import make_strategy

    make_policy(config.policy, config.capacity)
    make_strategy(config.strategy)


def main() -> None:
    """Entry point: errors are one line on stderr and a documented exit code."""
    try:
        icn_edge.main(standalone_mode=False)
    except click.ClickException as error:
        # click prints "Usage: ..." and a hint over several lines; one is enough here.
        _fail(UsageError(error.format_message(), hint="icn-edge --help"))
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        sys.exit(130)
    except IcnError as error:
        _fail(error)
    except OSError as error:
        what = error.filename or "the output"
        _fail(StorageError.of(error, f"cannot write or read {what}"))


def _fail(error: IcnError) -> None:
    hint = f" ({error.hint})" if error.hint else ""
    message = f"icn-edge: {error}{hint}".replace("\n", " ")
    with contextlib.suppress(OSError):  # nobody can be told, but the exit code
        click.echo(message, err=True)
    _abandon_output()
    sys.exit(error.exit_code)


def _abandon_output() -> None:
    """What could not be written goes nowhere, so that Python does not try it again at the exit."""
    with contextlib.suppress(OSError):
        sink = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(sink, stream)
