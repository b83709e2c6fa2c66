"""V_rand and V_info after border thinning and other scores; `evaluate` is the door."""
