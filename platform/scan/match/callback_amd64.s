//go:build linux && !nohyperscan

#include "textflag.h"

// int onMatch(unsigned id, unsigned long long from, unsigned long long to, unsigned flags, void *pad)
// in the calling convention of C (System V AMD64 ABI): DI, SI, DX, CX, R8; the result in AX. It changes only what a function of C
// may change, and needs no stack. It returns 1, which ends the scan, when the pad is full.
TEXT ·onMatch(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ 8(R8), R9
	CMPQ R9, 16(R8)
	JAE  full
	MOVQ 0(R8), R10
	LEAQ (R10)(R9*8), R10
	MOVL DI, 0(R10)
	MOVL DX, 4(R10)
	INCQ R9
	MOVQ R9, 8(R8)
	XORL AX, AX
	RET

full:
	MOVL $1, AX
	RET

DATA ·onMatchAddress(SB)/8, $·onMatch(SB)
GLOBL ·onMatchAddress(SB), NOPTR, $8
