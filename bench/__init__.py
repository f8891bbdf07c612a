"""Speed and memory of the package's ops, side by side with what they replace.

    python -m bench --device cpu                  measure, print, write JSON and CSV
    python -m bench compare A.json B.json         what changed between two results
    python -m bench merge A.json B.json           add the rows of B, of the same machine, to A
    python -m bench table RESULT.json             one op's table, in Markdown
    python -m bench plots FOLDER                  pictures of a machine's results
    python -m bench pages                         README's and docs' figures from committed results
    python -m bench gpu-report                    tests, results, pictures and report of a GPU

One file for each idea: `ops/` says what an op computes and what it must move, `steps/` the same of
training steps, `variants` who computes it, `gate` whether the answer is right (`normality` and
`scores`: its noise), `case` what is to be done, `timing`, `memory` and `launches` how long, how
much and how many (`trace` asks the profiler), `limits` what the machine itself can do, `machine`
which one it is, `allocator` what becomes of freed memory, `steadiness` whether it was busy,
`measure` runs it all, `report`, `files`, `compare` and `markdown` show it. `rows` says which rows
belong together and who is fastest, `targets` what must be reached, `plots` draws, `pages` fills in
README and docs. `gpu_report` runs everything on a GPU as its `plan` says, with `processes` that
have a limit of time, `outcomes` of tests, and `reporting`, the report's text.
"""
