"""The operator's behaviour: what is done when, level-triggered from what the API holds.

`wiring` has every kopf decorator; `runtime` starts and stops everything; `cycle` runs one scheduling cycle at a time;
`jobs` and `pools` look after one kind each; `lifecycle`, `facts` and `jobstatus` are pure; `gang` carries out;
`progress` asks the sidecars; `health` answers probes. Only here errors become retries, events and conditions.
"""
