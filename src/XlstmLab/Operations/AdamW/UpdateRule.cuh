#pragma once
// The numbers of an update, in device memory: what the host writes, and what adamw_prepare makes of it. Muon's kernels read them too.
#include "Ptx.cuh"

// What the host writes before each step.
struct Settings
{
    double rate, beta1, beta2, epsilon, decay;
    double clip;                    // the greatest norm that gradients are left with; 0: any
    double loss_limit, norm_limit;  // no update beyond; 0: any finite
    double average_decay;           // the share of the running average of weights that an update keeps
};

// The numbers of one update.
struct Rule
{
    float scale, mean_share, beta2, square_share, epsilon, inverse_root, step_size, retained, average_share;
    int applies;
};
