"""The VPC that workers run in: whether it is there, and how they get from it to AWS's services."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cirrus_fast.backend.deployment.account import Account, Answer, RefusedError
from cirrus_fast.backend.deployment.settings import Settings
from cirrus_fast.errors import DeploymentError


@dataclass(frozen=True, slots=True)
class Route:
    """How a subnet gets to a service.

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
    vpc = Vpc.of(account, settings.subnets)
    with_groups = _describe(account, "SecurityGroup", settings.security_groups)
    strangers = [found["GroupId"] for found in with_groups if found["VpcId"] != vpc.id]
    if strangers:
        raise DeploymentError(f"{', '.join(strangers)}: of another VPC than the subnets' {vpc.id}")
    for subnet in settings.subnets:
        route = vpc.route(subnet, "s3")
        if route.way != "gateway":
            yield f"{subnet}: {vpc.advice(route)}"
    for service in secret_services(settings.secrets):
        if not vpc.reaches(settings.subnets, service):
            yield vpc.no_way_to(service)


def secret_services(arns: Iterable[str]) -> list[str]:
    """Whose secrets these are."""
    return list(dict.fromkeys(arn.split(":")[2] for arn in arns))


class Vpc:
    """One VPC, as it was when it was looked at."""

    def __init__(self, account: Account, vpc: str) -> None:
        self.id = vpc
        self._region = account.region
        here = [{"Name": "vpc-id", "Values": [vpc]}]
        self._tables = account.pages("ec2", "DescribeRouteTables", "RouteTables", Filters=here)
        endpoints = account.pages("ec2", "DescribeVpcEndpoints", "VpcEndpoints", Filters=here)
        self._endpoints = [
            one for one in endpoints if one.get("State", "available").lower() == "available"
        ]

    @classmethod
    def of(cls, account: Account, subnets: Iterable[str]) -> Vpc:
        """That of the subnets."""
        found = {one["VpcId"] for one in _describe(account, "Subnet", subnets)}
        if len(found) != 1:
            raise DeploymentError(f"subnets: they are of several VPCs: {', '.join(sorted(found))}")
        return cls(account, found.pop())

    def route(self, subnet: str, service: str) -> Route:
        table = self._table_of(subnet)
        if table is None:
            return Route(subnet, "no route table", None)
        name = str(table["RouteTableId"])
        there = [
            one
            for one in self._endpoints
            if one["ServiceName"] == f"com.amazonaws.{self._region}.{service}"
        ]
        way = None
        if any(name in one.get("RouteTableIds", ()) for one in there):
            way = "gateway"
        elif any(one.get("VpcEndpointType") == "Interface" for one in there):
            way = "interface"
        elif any(route.get("NatGatewayId") for route in table.get("Routes", ())):
            way = "NAT"
        return Route(subnet, name, way)

    def reaches(self, subnets: Iterable[str], service: str) -> bool:
        return all(self.route(subnet, service).way for subnet in subnets)

    def advice(self, route: Route) -> str:
        """What to do where there is no gateway endpoint to S3."""
        make = (
            f"aws ec2 create-vpc-endpoint --vpc-id {self.id} "
            f"--service-name com.amazonaws.{self._region}.s3 --route-table-ids {route.table}"
        )
        if route.way is None:
            return f"no way from {route.table} to S3; a gateway endpoint costs nothing: {make}"
        way = {"NAT": "a NAT gateway", "interface": "an interface endpoint"}[route.way]
        return f"gets to S3 by {way}, which costs by the byte; a gateway endpoint does not: {make}"

    def no_way_to(self, service: str) -> str:
        """Of one that has no gateway endpoints."""
        return (
            f"no way from {self.id} to {service}, where the secret is: an interface endpoint "
            f"(aws ec2 create-vpc-endpoint --vpc-endpoint-type Interface --service-name "
            f"com.amazonaws.{self._region}.{service} ...) or a NAT gateway, by the hour"
        )

    def _table_of(self, subnet: str) -> Answer | None:
        """Its own, or the VPC's main one."""
        main = None
        for table in self._tables:
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
