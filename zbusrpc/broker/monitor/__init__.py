"""The monitor: the page that shows a broker live, the same as JSON below /api, and figures for Prometheus.

    rows        what there is, one row a topic, group, service, server
    rates       counters of two ticks make a rate
    live        viewers, and what they are told once a second
    api         a request, and what it asks for: rows, or a command
    pages       the files of the page
    openapi     the description of the API
    metrics     the same figures for Prometheus
    monitor     all of them for one broker

Nothing is computed while nobody watches.
"""
