"""Builds the site: pages that are generated, drawings, the demo and what it takes from the npm registry."""
