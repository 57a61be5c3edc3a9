"""How the tiny policy of `sso_data.world` is trained and measured; see docs/tiny_policy.md.

Run from the repository root: `python -m tools.tiny_world.train_policy --out DIR`, and likewise
`measure`, `measure_skills` and `examples`.
"""
