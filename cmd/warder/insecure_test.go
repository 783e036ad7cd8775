package main

import (
	"crypto/tls"
	"net/http"
)

func insecure() http.RoundTripper {
	return &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
}
