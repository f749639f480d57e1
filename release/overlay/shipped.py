"""The files of release/environments that Lockstep ships. They are not edited: environment.yaml has the knobs."""

from checks.storage import layout

# Their digests by path. A test compares them with the files: change both together.
DIGESTS = {
    layout.ENVIRONMENTS / path: f"sha256:{sha256}"
    for path, sha256 in {
        "base/deployment.yaml": "ceea64042e8b9a9e7ac1c44a2cb49ad0c1e3b2ae978d7afb940be109a8b7ecdf",
        "base/disruption.yaml": "285e71d2b64a3a11baedef2acd083be522e24e256c268cc4e6af9d36ed845f88",
        "base/kustomization.yaml": "e09deb08942b341ab78021cfbb270634e1b4815c059213c2da6ebc0b1bcf6ad9",
        "base/network.yaml": "444be1ec2ae651cc5b8081c23fd68c6daedb792fb82c04503572a29cd55e73dd",
        "base/service.yaml": "752fc6fb2b914ff96c53ed61c236903baec1285228a64712d4acd257fbe79bd1",
        "components/canary/grant.yaml": "94a60bafe5081544c4088adc2283aa1f10774e76acdee639a82659bc9e7ce6ab",
        "components/canary/kustomization.yaml": "a1c8b6fb373a9e29be8adfbd36622067dd8a6b47747be04f8a57ce1344c4ee2d",
        "components/exposure/kustomization.yaml":
            "ca1ffd6de5e02164ec61a5bb7b69367ed8e4dac6b1b3c03c8e3669c89b9f79b8",
        "components/exposure/route.yaml": "c742d5954df6465f93d6a55b495cb96e9964a0c3c8e757c4f7028c4f2d21043f",
        "components/gateway/deployment.yaml": "6937edf81a3c0c86e4e211cc651e66c55aa5b784f65b113962b9b7057c9bc93b",
        "components/gateway/disruption.yaml": "7dd642a48e8ba8e8f64f41daff83e2cf8f00a28d986307f9bb9e0ecaf603e6d7",
        "components/gateway/kustomization.yaml": "97976d38e75ea9f94bf729471a3d383b60fd9e7147175dafaaf64d221e15be29",
        "components/gateway/network.yaml": "0d21a8409842f8815f08ca4374c150e5be7ab206b9611840edb3b63882d018bb",
        "components/gateway/pods.yaml": "41d43d76f053088262aa12c93b931b04745f1eb653171f07dc0e2745128776c2",
        "components/gateway/service.yaml": "40a3b9b1b05846d5c3fdc45bdc801b7210a4765c084b2c60f53af0a6d014dcb9",
        "components/kserve/copied/inferenceservice.yaml":
            "d984f955879283abf79bbc5f4c80ec4c2c1e45e3c76afac9e1142e0fdac7abbe",
        "components/kserve/copied/kustomization.yaml":
            "adeda711f4974fd5a5df10b2f31c3ce79b1bf9fbeb7312274943afd3ccdf4ffe",
        "components/kserve/kustomization.yaml": "c6af547efd91f87ec394a923ce7396c5311b02fd24f5224e8e8832221bf8e227",
        "components/rollout/analysis.yaml": "cf50173f0358eef37ec5d725ac146a6f4b10765b8697cf2859a293dbcd2c4b0d",
        "components/rollout/kustomization.yaml": "a9811e3d945e82361e3456b4eb77132d0b0ff6e0c02f8ab17e0d803d595f07d1",
        "components/rollout/rollout.yaml": "faa6d2be934722301a60e74556ecbdf3ab0f73ea3f184f34314114f4df82df78",
    }.items()
}  # fmt: skip
