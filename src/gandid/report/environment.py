"""What the pages' templates are rendered with: all that comes from outside is escaped, and nothing may be missing."""

import jinja2


def templates() -> jinja2.Environment:
    """The templates of the report and of a sweep's page."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("gandid.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
