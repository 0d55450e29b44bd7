"""OpenMMReasoner-RL-74K (OpenMMReasoner/OpenMMReasoner-RL-74K) as questions.

    python data_preprocess/openmmreasoner.py --input /data/openmmreasoner --output outputs/openmmreasoner

Reads verl's parquet with embedded images; system messages are dropped for ours. The set contains ViRL39K and MMK12:
deduplicate if you mix them.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("openmmreasoner", __doc__))
