// What the mLSTM's kernels agree on: the chunk, and the arrays of a number a token that mlstm_gates makes, planes of [B NH, NC CHUNK].
#pragma once

// MLstmSequenceKernel.cs tells CHUNK, the tokens of a chunk.
static_assert(CHUNK == 128, "a lane has four tokens, and a warp of a tile four bands of 32");

#define ROW_U 0      // log2 of a key's weight, up to the query's share
#define ROW_P 1      // a query's share: E_ij = 2^(u_j - p_i)
#define ROW_READ 2   // what a query sees of the state before the chunk, times DQK^-1/2
#define ROW_WRITE 3  // what a key adds to the state after the chunk
#define ROW_FLOOR 4  // exp(-M), below which a denominator does not fall
#define ROW_START 5  // the first token of the chunk that the query sees
