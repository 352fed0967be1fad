"""What the page fetches beside Gradio's own: scripts, scenes, pictures and exports. Nothing here is written to the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from gps_seg.errors import GpsSegError
from gps_seg_app.access import user_of
from gps_seg_app.answer.desk import Desk
from gps_seg_app.export import files as export
from gps_seg_app.inference.model_card import ModelCard
from gps_seg_app.page.layers import alt_text, map_png, picture_png, rings
from gps_seg_app.page.page import WEB
from gps_seg_app.session import Session, Sessions

SCRIPTS = ("page.js", "stage.js", "clip.js", "gallery.js")
KINDS = {"png": "image/png", "json": "application/json", "csv": "text/csv; charset=utf-8", "pdf": "application/pdf",
         "zip": "application/zip", "mp4": "video/mp4", "webm": "video/webm"}
EXPORTS: dict[str, Callable[[export.Result, ModelCard], bytes | str]] = {
    "mask.png": lambda result, _: export.mask_png(result),
    "overlay.png": lambda result, _: export.overlay_png(result),
    "probability.png": lambda result, _: export.probability_png(result),
    "result.json": export.report_json,
    "regions.csv": lambda result, _: export.regions_csv(result),
    "report.pdf": export.report_pdf,
    "all.zip": export.bundle,
}
_packing = threading.Semaphore(2)  # exports at a time: each may hold several copies of a picture


def add_routes(api: FastAPI, sessions: Sessions) -> None:
    """Add them to the application, before Gradio takes every other path."""

    @api.get("/app/{name}")
    def script(name: str) -> Response:
        if name not in SCRIPTS:
            raise HTTPException(404)
        return Response((WEB / name).read_bytes(), media_type="text/javascript; charset=utf-8")

    @api.get("/scene/{token}/{kind}")
    def scene(token: str, kind: str, request: Request) -> Response:
        session = _session(sessions, token, request)
        with session.lock:
            return JSONResponse(_image_scene(session) if kind == "image" else _other_scene(session, kind))

    @api.get("/picture/{token}/{kind}/{slot}")
    def picture(token: str, kind: str, slot: str, request: Request) -> Response:
        return Response(_picture(_session(sessions, token, request), kind, slot), media_type="image/png")

    @api.get("/export/{token}/{name}")
    def exported(token: str, name: str, request: Request) -> Response:
        return _export(_session(sessions, token, request), name)

    @api.get("/clip/{token}/{name}")
    def clip(token: str, name: str, request: Request) -> Response:
        path = _session(sessions, token, request).products.get(name)
        if not isinstance(path, Path) or not path.is_file():
            raise HTTPException(404)
        return FileResponse(path, media_type=_kind(name))


def _session(sessions: Sessions, token: str, request: Request) -> Session:
    session = sessions.by_token(token, user_of(request.headers))
    if session is None:
        raise HTTPException(404, "This page was closed: reload it.")
    return session


def _image_scene(session: Session) -> dict[str, Any]:
    empty = {"base": "", "heat": "", "spread": "", "width": 0, "height": 0, "polygons": [], "regions": [], "points": [],
             "box": None, "alt": "", "key": ""}
    if session.picture is None:
        return empty
    height, width = session.picture.pixels.shape[:2]
    shown = {**empty, "base": f"/picture/{session.token}/image/base-{session.picture.key}", "width": width,
             "key": session.picture.key, "height": height, "alt": "The picture as it came."}
    desk = session.desk
    return shown if desk is None else {**shown, **_answer_scene(desk, session)}


def _answer_scene(desk: Desk, session: Session) -> dict[str, Any]:
    result = desk.result()
    place = f"/picture/{session.token}/image"
    number = desk.predictor.names.index(desk.name)
    return {
        "heat": f"{place}/heat-{session.version}",
        "spread": "" if desk.spread is None else f"{place}/spread-{desk.picture.key}.{number}",
        "polygons": rings(result), "regions": [{"id": one.id, "x": one.centroid[0], "y": one.centroid[1]}
                                               for one in result.finding.regions],
        "points": [list(point) for point in desk.step.points], "box": desk.step.box, "alt": alt_text(result),
    }


def _other_scene(session: Session, kind: str) -> dict[str, Any]:
    if kind == "video":
        return session.clip or {"source": ""}
    shown = session.galleries.get(kind, [])
    place = f"/picture/{session.token}/{kind}"
    return {"pictures": [{"source": f"{place}/{index}-{session.version}" if one.data else "", "caption": one.caption,
                          "alt": one.alt} for index, one in enumerate(shown)]}


def _picture(session: Session, kind: str, slot: str) -> bytes:
    name = slot.partition("-")[0]
    with session.lock:
        picture, desk, gallery = session.picture, session.desk, session.galleries.get(kind, [])
        if kind == "image" and picture is not None:
            if name == "base":
                if slot not in session.cache:
                    session.cache = {slot: picture_png(picture.pixels)}
                return session.cache[slot]
            if name == "heat" and desk is not None:
                return map_png(desk.probability, 1.0)
            if name == "spread" and desk is not None and desk.spread is not None:
                return map_png(desk.spread, 0.5)
        elif name.isdigit() and int(name) < len(gallery):
            return gallery[int(name)].data
    raise HTTPException(404)


def _export(session: Session, name: str) -> Response:
    product = session.products.get(name)
    headers = {"Content-Disposition": f'attachment; filename="gps-seg-{name}"'}
    if isinstance(product, Path):
        if not product.is_file():
            raise HTTPException(404, "These results are gone: they are kept for two hours. Run it again.")
        return FileResponse(product, media_type=_kind(name), headers=headers)
    if isinstance(product, bytes):
        return Response(product, media_type=_kind(name), headers=headers)
    if name not in EXPORTS or session.desk is None:
        raise HTTPException(404, "There is nothing to export yet.")
    with session.lock:
        desk = session.desk
        result = desk.result()
    try:
        with _packing:
            data = EXPORTS[name](result, desk.predictor.card(desk.name))
    except GpsSegError as error:
        raise HTTPException(409, str(error)) from None
    return Response(data, media_type=_kind(name), headers=headers)


def _kind(name: str) -> str:
    return KINDS.get(name.rpartition(".")[2], "application/octet-stream")
