"""Dashboards as code for an operations room, their provisioning, their check, and the push into an existing Grafana."""

from grafana.check import PanelResult, check_panels
from grafana.dashboards import render, render_provisioning, render_provisioning_to, render_to
from grafana.push import GrafanaError, GrafanaUnreachable, PushReport, push

__all__ = [
    "GrafanaError",
    "GrafanaUnreachable",
    "PanelResult",
    "PushReport",
    "check_panels",
    "push",
    "render",
    "render_provisioning",
    "render_provisioning_to",
    "render_to",
]
