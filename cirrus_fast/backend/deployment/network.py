"""The VPC that workers run in: whether it is there, and how they get from it to S3."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cirrus_fast.backend.deployment.account import Account, Answer, RefusedError
from cirrus_fast.backend.deployment.settings import Settings
from cirrus_fast.errors import DeploymentError


@dataclass(frozen=True, slots=True)
class Route:
    """How a subnet gets to S3.

    Attributes
    ----------
    table : route table
    way : "gateway" (endpoint, free), "interface" (endpoint, by the byte), "NAT" (by the byte) or
        None
    """

    subnet: str
    table: str
    way: str | None


def check(account: Account, settings: Settings) -> Iterable[str]:
    """Notes on the VPC of a deployment.

    Raises
    ------
    DeploymentError : a subnet or group is not there, or they are of several VPCs
    """
    if not settings.in_vpc:
        return
    vpc = vpc_of(account, settings.subnets)
    with_groups = _describe(account, "SecurityGroup", settings.security_groups)
    strangers = [found["GroupId"] for found in with_groups if found["VpcId"] != vpc]
    if strangers:
        raise DeploymentError(f"{', '.join(strangers)}: of another VPC than the subnets' {vpc}")
    for route in routes_to_s3(account, vpc, settings.subnets):
        if route.way != "gateway":
            yield f"{route.subnet}: {advice(route, vpc, account.region)}"


def vpc_of(account: Account, subnets: Iterable[str]) -> str:
    vpcs = {found["VpcId"] for found in _describe(account, "Subnet", subnets)}
    if len(vpcs) != 1:
        raise DeploymentError(f"subnets: they are of several VPCs: {', '.join(sorted(vpcs))}")
    return str(vpcs.pop())


def routes_to_s3(account: Account, vpc: str, subnets: Iterable[str]) -> list[Route]:
    in_vpc = [{"Name": "vpc-id", "Values": [vpc]}]
    tables = account.pages("ec2", "DescribeRouteTables", "RouteTables", Filters=in_vpc)
    endpoints = account.pages("ec2", "DescribeVpcEndpoints", "VpcEndpoints", Filters=in_vpc)
    to_s3 = [
        one
        for one in endpoints
        if one["ServiceName"] == f"com.amazonaws.{account.region}.s3"
        and one.get("State", "available").lower() == "available"
    ]
    found = []
    for subnet in subnets:
        table = _table_of(subnet, tables)
        if table is None:
            found.append(Route(subnet, "no route table", None))
            continue
        name = str(table["RouteTableId"])
        way = None
        if any(name in one.get("RouteTableIds", ()) for one in to_s3):
            way = "gateway"
        elif any(one.get("VpcEndpointType") == "Interface" for one in to_s3):
            way = "interface"
        elif any(route.get("NatGatewayId") for route in table.get("Routes", ())):
            way = "NAT"
        found.append(Route(subnet, name, way))
    return found


def advice(route: Route, vpc: str, region: str) -> str:
    """What to do where there is no gateway endpoint."""
    make = (
        f"aws ec2 create-vpc-endpoint --vpc-id {vpc} --service-name com.amazonaws.{region}.s3 "
        f"--route-table-ids {route.table}"
    )
    if route.way is None:
        return f"no way from {route.table} to S3; a gateway endpoint costs nothing: {make}"
    way = {"NAT": "a NAT gateway", "interface": "an interface endpoint"}[route.way]
    return f"gets to S3 by {way}, which costs by the byte; a gateway endpoint does not: {make}"


def _table_of(subnet: str, tables: Iterable[Answer]) -> Answer | None:
    """Its own, or the VPC's main one."""
    main = None
    for table in tables:
        for association in table["Associations"]:
            if association.get("SubnetId") == subnet:
                return table
            if association.get("Main"):
                main = table
    return main


def _describe(account: Account, what: str, ids: Iterable[str]) -> list[dict[str, str]]:
    key = f"{what}Ids" if what == "Subnet" else "GroupIds"
    try:
        found = account.ask("ec2", f"Describe{what}s", **{key: list(ids)})
    except RefusedError as error:
        if ".NotFound" in error.code:
            raise DeploymentError(f"{error.said} (region {account.region})") from error
        raise
    rows: list[dict[str, str]] = found[f"{what}s"]
    return rows
