"""The commands deploy, undeploy and doctor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cirrus_fast.cli import PROGRAM, output
from cirrus_fast.cli.output import command
from cirrus_fast.errors import DeploymentError, LayerError

if TYPE_CHECKING:
    from cirrus_fast.backend.deployment.plan import Plan, Step
    from cirrus_fast.backend.deployment.settings import Settings

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _pairs(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{text!r}: must be NAME=VALUE")
        pairs[key] = value
    return pairs


def _name_options(function: _Function) -> _Function:
    """Which deployment, and where."""
    for option in (
        click.option("--region", metavar="REGION", help="AWS's region; by default its settings'."),
        click.option(
            "--name",
            default="cirrus-fast",
            show_default=True,
            metavar="NAME",
            help="The deployment: its function's name.",
        ),
    ):
        function = option(function)
    return function


_owner_option = click.option(
    "--owner",
    metavar="WHO",
    help="Whose it is; by default the AWS user or role that asks. Another's is not touched.",
)


def _settings_options(function: _Function) -> _Function:
    many: dict[str, Any] = {"multiple": True}
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    for option in reversed(
        (
            click.option(
                "--data",
                metavar="S3-URI",
                help="s3://bucket/prefix that workers read and write; may be given again.",
                **many,
            ),
            click.option(
                "--read-only", metavar="S3-URI", help="The same, for what they only read.", **many
            ),
            click.option(
                "--memory", default=2048, show_default=True, help="MB a worker.", **number
            ),
            click.option(
                "--tmp",
                default=512,
                show_default=True,
                help="MB of disk a worker, for S3 data beyond its memory.",
                **number,
            ),
            click.option("--python", metavar="X.Y", help="Runtime; by default the layer's."),
            click.option("--arch", metavar="ARCH", help="x86_64 or arm64; by default the layer's."),
            click.option("--subnet", "subnets", metavar="ID", help="Of the workers' VPC.", **many),
            click.option(
                "--security-group", "security_groups", metavar="ID", help="The same.", **many
            ),
            click.option(
                "--secret",
                "secrets",
                metavar="ARN",
                help="Secret or SSM parameter that workers may read: a store's password.",
                **many,
            ),
            click.option(
                "--kms-key",
                "kms_keys",
                metavar="ARN",
                help="Key that data or secrets are encrypted with.",
                **many,
            ),
            click.option(
                "--env",
                "environment",
                metavar="NAME=VALUE",
                callback=_pairs,
                help="Variable of the function; no secrets.",
                **many,
            ),
            click.option(
                "--log-retention", default=14, show_default=True, help="Days logs stay.", **number
            ),
            click.option(
                "--reserved-concurrency", help="Workers at once kept for this one.", **number
            ),
            click.option(
                "--role", metavar="ARN", help="A role to use as it is; none is made then."
            ),
            click.option(
                "--permissions-boundary", metavar="ARN", help="Policy that bounds the role made."
            ),
            click.option(
                "--tag",
                "tags",
                metavar="KEY=VALUE",
                callback=_pairs,
                help="Tag of all that is made.",
                **many,
            ),
        )
    ):
        function = option(function)
    return function


@command("deploy")
@_name_options
@_settings_options
@_owner_option
@click.option(
    "--layer",
    "layer_path",
    type=click.Path(dir_okay=False),
    metavar="ZIP",
    help="What `layer build` made; without it one is built.",
)
@click.option(
    "--find-links",
    multiple=True,
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Folder of wheels to build it from as well; may be given again.",
)
@click.option("--no-index", is_flag=True, help="Build it from --find-links only: no network.")
@click.option("--dry-run", is_flag=True, help="Show the plan and the policy; change nothing.")
@click.option(
    "--show-policies",
    is_flag=True,
    help="Print what who deploys, who trains and the function must be allowed; ask AWS nothing.",
)
def deploy_command(
    name: str,
    region: str | None,
    layer_path: str | None,
    find_links: tuple[str, ...],
    no_index: bool,
    dry_run: bool,
    show_policies: bool,
    python: str | None,
    arch: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Put the workers' function on AWS Lambda, or bring it up to date.

    Layer, role, log group, function: what is as it should be stays. The options say all that the
    deployment is: one that is left out goes back to its default.
    """
    from cirrus_fast.backend.deployment.account import Account
    from cirrus_fast.backend.deployment.deploy import plan_deployment
    from cirrus_fast.backend.deployment.layer_zip import make_layer, read_layer
    from cirrus_fast.backend.deployment.settings import Settings
    from cirrus_fast.backend.layer import running_python

    if layer_path is not None and (find_links or no_index):
        raise LayerError("--layer is there already: --find-links and --no-index are for building")
    layer = None if layer_path is None else read_layer(layer_path)
    settings = Settings(
        name=name,
        python=python or (running_python() if layer is None else layer.python),
        arch=arch or ("x86_64" if layer is None else layer.arch),
        **given,
    )
    account = Account(region)
    if show_policies:
        output.show_json(_policies(settings, account))
        return
    if layer is None:
        click.echo(f"{PROGRAM}: note: building the layer", err=True)
        layer = make_layer(settings.python, settings.arch, find_links=find_links, no_index=no_index)
    plan = plan_deployment(settings, layer, account)
    _carry_out(plan, dry_run=dry_run, as_json=as_json, with_policies=dry_run)
    if not dry_run and not as_json:
        click.echo(f'\ntry it: {PROGRAM} doctor --name {name}; then executor="lambda"')


def _policies(settings: Settings, account: Any) -> Mapping[str, Any]:
    from cirrus_fast.backend.deployment import policies

    arns = policies.Arns(settings, account.region, "*", account.partition)
    return {
        "deployer": policies.deployer_policy(settings, arns),
        "trainer": policies.trainer_policy(settings, arns),
        "function": policies.function_policy(settings, arns),
    }


@command("undeploy")
@_name_options
@_owner_option
@click.option("--keep-logs", is_flag=True, help="Leave the log group.")
@click.option("--dry-run", is_flag=True, help="Show what would go; change nothing.")
def undeploy_command(
    name: str, region: str | None, owner: str | None, keep_logs: bool, dry_run: bool, as_json: bool
) -> None:
    """Take away what deploy made, told by its tags, and nothing else."""
    from cirrus_fast.backend.deployment.account import Account
    from cirrus_fast.backend.deployment.undeploy import plan_removal

    plan = plan_removal(name, Account(region), owner=owner, keep_logs=keep_logs)
    _carry_out(plan, dry_run=dry_run, as_json=as_json)


def _carry_out(plan: Plan, *, dry_run: bool, as_json: bool, with_policies: bool = False) -> None:
    done: list[Step] = []
    if dry_run and not as_json:
        rows = [(step.action, step.what, step.reason) for step in plan.steps]
        output.show_table({"": "left", "what": "left", "why": "left"}, rows)
    if not dry_run:

        def tell(step: Step) -> None:
            done.append(step)
            if not as_json:
                click.echo(f"{step.action}  {step.what}: {step.reason}")

        try:
            plan.apply(tell)
        except DeploymentError as error:
            last = done[-1]
            raise DeploymentError(f"{last.action} {last.what}: {error}") from error
    if as_json:
        output.show_json(plan.to_json() | {"applied": not dry_run, "changes": len(plan.changes)})
        return
    for note in plan.notes:
        click.echo(f"{PROGRAM}: note: {note}", err=True)
    if with_policies:
        click.echo("\nThe function's policy:")
        click.echo(output.json_text(plan.policies["function"]))
    changes = output.number_of(len(plan.changes), "change")
    click.echo(f"{changes} to make; nothing was changed" if dry_run else f"{changes} made")


@command("doctor")
@_name_options
@click.option(
    "--data",
    multiple=True,
    metavar="S3-URI",
    help="Look at this too, beside what deploy was told; may be given again.",
)
@click.option(
    "--store",
    "stores",
    multiple=True,
    metavar="URL",
    help="A parameter store that workers are to reach; may be given again.",
)
@click.option(
    "--n-workers", default=10, show_default=True, metavar="N", help="Workers at once to allow for."
)
def doctor_command(
    name: str,
    region: str | None,
    data: tuple[str, ...],
    stores: tuple[str, ...],
    n_workers: int,
    as_json: bool,
) -> None:
    """Look at a deployment from outside and from inside the function.

    Writes a small object into each location that workers may write, and deletes it.
    """
    from cirrus_fast.backend.deployment.account import Account
    from cirrus_fast.backend.deployment.doctor import FAIL, examine

    checks = []
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    for check in examine(name, Account(region), data=data, stores=stores, n_workers=n_workers):
        checks.append(check)
        if not as_json:
            word = click.style(f"{check.verdict:<4}", fg=colours[check.verdict])
            click.echo(f"{word}  {check.name}: {check.found}")
            if check.todo:
                click.echo(f"      {check.todo}")
            sys.stdout.flush()
    failed = sum(check.verdict == FAIL for check in checks)
    if as_json:
        output.show_json({"checks": [asdict(check) for check in checks], "failed": failed})
    if failed:
        raise DeploymentError(f"{output.number_of(failed, 'check')} failed")
