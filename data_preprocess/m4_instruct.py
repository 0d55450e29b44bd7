"""M4-Instruct, the training data of LLaVA-NeXT-Interleave (lmms-lab/M4-Instruct-Data), as questions.

    python data_preprocess/m4_instruct.py --input /data/m4 --media-root /data/m4/images --output outputs/m4_instruct

Unpack the archives of images into one folder, as their card says. The first exchange of each chat becomes a question if
its answer is one that a rule can verify: a letter, a number, yes or no, a word or three. Longer answers are rejected as
free_text, later turns are left out. The set shares tasks with MUIRBench and MMIU: decontaminate afterwards.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("m4_instruct", __doc__))
