package api

import "github.com/warderd/warder/sync/protocol"

// serverTime answers a device that cannot check this server's certificate, because its clock is wrong.
func serverTime(a *API, q *request, in *protocol.TimeRequest) (protocol.TimeResponse, error) {
	s, err := protocol.SignTime(a.Keys.Signing(), in.Nonce, q.now)
	return protocol.TimeResponse{Time: s}, err
}
