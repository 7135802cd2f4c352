"""The mathematics: features to statistics, distances, scores and their standard errors.

Takes arrays from anywhere, and knows neither images nor networks. Public names:
`metrics/__init__.pyi`.
"""
