//go:build linux && !nohyperscan

#include "textflag.h"

// int onMatch(unsigned id, unsigned long long from, unsigned long long to, unsigned flags, void *pad)
// in the calling convention of C (AAPCS64): R0, R1, R2, R3, R4; the result in R0. It changes only what a function of C may change,
// and needs no stack. It returns 1, which ends the scan, when the pad is full.
TEXT ·onMatch(SB), NOSPLIT|NOFRAME, $0-0
	MOVD 8(R4), R9
	MOVD 16(R4), R10
	CMP  R10, R9
	BHS  full
	MOVD 0(R4), R10
	ADD  R9<<3, R10, R10
	MOVW R0, 0(R10)
	MOVW R2, 4(R10)
	ADD  $1, R9, R9
	MOVD R9, 8(R4)
	MOVD $0, R0
	RET

full:
	MOVD $1, R0
	RET

DATA ·onMatchAddress(SB)/8, $·onMatch(SB)
GLOBL ·onMatchAddress(SB), NOPTR, $8
