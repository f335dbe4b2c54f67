"""The operator's behaviour: what is done when, level-triggered from what the API holds.

`wiring` has every kopf decorator; `runtime` starts and stops everything; `cycle` runs one scheduling cycle at a time;
`jobs` and `pools` look after one kind each; `gang` carries out; `tell` says what happens; `progress` asks the sidecars;
`health` answers probes. Only here errors become retries, events and conditions.

Pure, a value in and a value out: `lifecycle` (what to do about a job; its words are in `life`), `failure` (what a
failure means), `goingon` (where a stopped gang goes on), `sizes` (how many workers it may have), `facts` and
`jobstatus` (between these and what the API holds).

What the cycle asks in turn: `again` (gangs that go on where they were), `waiting` (who wants a place), `preemption`
(who gives way), `growth` (who can have more workers), `sweep` (pods of jobs that are gone); `reading`, `priorities` and
`masks` help all of them. Each writes down what it wants in the job's status (`placement`, `nomination`, `disruption`)
before anything is done.
"""
