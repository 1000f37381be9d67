"""Which kind of store holds the model: by the options, and by what the servers can do."""

from __future__ import annotations

from collections.abc import Sequence

from cirrus_fast.errors import OptionError, StoreError
from cirrus_fast.notices import notice_once
from cirrus_fast.options import Options, needs_module
from cirrus_fast.runtime.params.control import is_clustered
from cirrus_fast.runtime.params.module import module_version
from cirrus_fast.runtime.params.resp import GIVE_UP_S, Link, Refused
from cirrus_fast.store_url import StoreUrl, is_store_url, parse_urls


def choose_store(options: Options) -> str:
    """memory, bitfield or module. The module is taken where all servers have it loaded, unless the
    URL says ?store=bitfield."""
    if not is_store_url(options.param_store):
        return "memory"
    urls = parse_urls(options.param_store)
    forced = urls[0].store
    if forced == "bitfield":
        return "bitfield"
    without = _without_module(urls)
    if not without:
        waits = options.consistency != "async" and options.sync_rows is None
        if waits and (options.pipeline_depth or 1) > 1:
            raise OptionError(
                f"pipeline_depth={options.pipeline_depth}: with consistency={options.consistency} "
                "the module makes steps wait for other workers, so one is under way at a time; "
                "leave it out"
            )
        return "module"
    if forced == "module":
        raise StoreError(
            f"{', '.join(without)}: has not loaded the module that ?store=module wants: start it "
            "with loadmodule and the file of cirrus_fast.redis_module_path()"
        )
    why = needs_module(options)
    if why:
        raise OptionError(why)
    if len(without) < len(urls):
        notice_once(f"{', '.join(without)}: has not loaded our module, so that of others is unused")
    return "bitfield"


def _without_module(urls: Sequence[StoreUrl]) -> list[str]:
    """Servers that have not loaded it. Of a cluster, some may be away: others have their places."""
    without, away = [], []
    for url in urls:
        try:
            if _version(url) is None:
                without.append(url.place)
        except Refused:
            raise
        except StoreError as error:
            away.append(error)
    if away and (len(away) == len(urls) or not is_clustered(urls)):
        raise away[0]
    return without


def _version(url: StoreUrl) -> str | None:
    link = Link((url,), b"", clustered=False)
    try:
        return link.again(module_version, give_up_s=min(GIVE_UP_S, 2 * url.timeout))
    finally:
        link.close()


def named(param_store: str, store: str) -> str:
    """What results call a store: its URLs say which kind it was."""
    if not is_store_url(param_store):
        return param_store
    return ",".join(
        url.shown if url.store else f"{url.shown}{'&' if '?' in url.shown else '?'}store={store}"
        for url in parse_urls(param_store)
    )
