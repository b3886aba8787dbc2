"""The HTTP layer: routes, strict parsing of bodies, access control, and errors as problem+json."""
