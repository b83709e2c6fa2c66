"""V_rand and V_info after border thinning, and other scores of arrays; `metrics` is the door."""
