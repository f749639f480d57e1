"""Names of the gateway's objects (release/environments/components/gateway)."""

NAME = "gateway"
LABELS = {"app.kubernetes.io/name": NAME}
