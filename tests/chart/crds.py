"""Schemas of the custom resources in the chart, written by hand.

The projects' own schemas are not available offline; these contain the fields that the chart uses, with
their types, and no others: a misspelt field fails."""

TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "array", "items": TEXT, "minItems": 1}
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}


def shape(required=(), **properties):
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": {name.rstrip("_"): schema for name, schema in properties.items()},
    }


def items(schema):
    return {"type": "array", "items": schema, "minItems": 1}


SELECTOR = shape(["matchLabels"], matchLabels=LABELS)
RELABELING = shape(
    sourceLabels=TEXTS, targetLabel=TEXT, regex=TEXT, replacement={"type": "string"}, action=TEXT
)

SPECS = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): shape(
        ["selector", "endpoints"],
        namespaceSelector=shape(["matchNames"], matchNames=TEXTS),
        selector=SELECTOR,
        endpoints=items(
            shape(
                ["port"],
                port=TEXT,
                path=TEXT,
                interval=DURATION,
                scrapeTimeout=DURATION,
                authorization=shape(
                    ["credentials"], type=TEXT, credentials=shape(["name", "key"], name=TEXT, key=TEXT)
                ),
                relabelings=items(RELABELING),
                metricRelabelings=items(RELABELING),
            )
        ),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): shape(
        ["groups"],
        groups=items(
            shape(
                ["name", "rules"],
                name=TEXT,
                interval=DURATION,
                labels=LABELS,
                rules=items(
                    {
                        **shape(
                            ["expr"],
                            alert=TEXT,
                            record=TEXT,
                            expr=TEXT,
                            for_=DURATION,
                            keep_firing_for=DURATION,
                            labels=LABELS,
                            annotations=LABELS,
                        ),
                        "oneOf": [{"required": ["alert"]}, {"required": ["record"]}],
                    }
                ),
            )
        ),
    ),
    ("cert-manager.io/v1", "Certificate"): shape(
        ["secretName", "issuerRef", "dnsNames"],
        secretName=TEXT,
        issuerRef=shape(["name"], name=TEXT, kind=TEXT, group=TEXT),
        duration=DURATION,
        renewBefore=DURATION,
        privateKey=shape(
            algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]},
            size={"type": "integer"},
            rotationPolicy={"enum": ["Never", "Always"]},
        ),
        usages=items({"enum": ["digital signature", "key encipherment", "server auth", "client auth"]}),
        dnsNames=TEXTS,
    ),
    ("security.istio.io/v1", "PeerAuthentication"): shape(
        ["selector", "mtls"],
        selector=SELECTOR,
        mtls=shape(["mode"], mode={"enum": ["STRICT", "PERMISSIVE", "DISABLE"]}),
        portLevelMtls={
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]+$"},
            "additionalProperties": shape(["mode"], mode={"enum": ["STRICT", "PERMISSIVE", "DISABLE"]}),
        },
    ),
    ("security.istio.io/v1", "AuthorizationPolicy"): shape(
        ["selector", "action", "rules"],
        selector=SELECTOR,
        action={"enum": ["ALLOW", "DENY"]},
        rules=items(
            shape(
                from_=items(shape(["source"], source=shape(["principals"], principals=TEXTS))),
                to=items(shape(["operation"], operation=shape(["ports"], ports=TEXTS))),
            )
        ),
    ),
    ("networking.istio.io/v1", "VirtualService"): shape(
        ["hosts", "http"],
        hosts=TEXTS,
        http=items(
            shape(
                ["route"],
                timeout=DURATION,
                retries=shape(["attempts"], attempts={"type": "integer", "minimum": 0}),
                route=items(
                    shape(
                        ["destination"],
                        destination=shape(
                            ["host"], host=TEXT, port=shape(["number"], number={"type": "integer"})
                        ),
                    )
                ),
            )
        ),
    ),
}
