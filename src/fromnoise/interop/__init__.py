"""Models of other tools as (settings, weights), both ways. One foreign format a file; none needs its tool installed."""
