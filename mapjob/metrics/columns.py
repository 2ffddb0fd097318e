"""Names of the columns of a pair: what is scored, and the margins that are made of it."""

REWARD = ("chosen_reward", "rejected_reward")
LOGPS = ("chosen_logps", "rejected_logps")
NUM_TOKENS = ("chosen_num_tokens", "rejected_num_tokens")
POLICY = (*LOGPS, *NUM_TOKENS)
REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
UNCONDITIONAL = ("chosen_unconditional_logps", "rejected_unconditional_logps")
COLLISION = ("chosen_collision_logps", "rejected_collision_logps")
# Margins, and the scored columns that each is made of. implicit_margin is one of the two below it.
MARGINS = {
    "reward_margin": REWARD,
    "simpo_margin": POLICY,
    "dpo_margin": (*LOGPS, *REFERENCE),
}
H, D, G, IMPLICIT, DISTANCE = "reward_margin", "simpo_margin", "dpo_margin", "implicit_margin", "edit_distance"
EACH_MODEL = "reward_margin.*"  # one column for each of several reward models
