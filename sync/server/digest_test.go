package server

import "github.com/warderd/warder/enforce/policy"

func digestOf(doc []byte) string { return policy.DigestOf(doc) }
