package api

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/warderd/warder/sync/protocol"
)

// requestDiagnostics answers POST /devices/{id}/diagnostics.
func requestDiagnostics(a *API, q *request) (messageView, error) {
	id := q.PathValue("id")
	q.status = http.StatusAccepted
	return messageView{"the device is asked at its next check-in", id}, a.Store.Diagnose(q.Context(), id, q.now)
}

// putDiagnostics accepts a bundle that was asked for: gzip of one JSON object, bounded both compressed and not.
func putDiagnostics(a *API, q *request) (messageView, error) {
	if len(q.body) > protocol.MaxBundle {
		return messageView{}, &problem{status: http.StatusRequestEntityTooLarge, code: "too_large", message: "a bundle has at most 1 MiB"}
	}
	z, err := gzip.NewReader(bytes.NewReader(q.body))
	if err != nil {
		return messageView{}, bad("the bundle is not gzip")
	}
	const most = 16 << 20
	b, err := io.ReadAll(io.LimitReader(z, most+1))
	if err != nil || len(b) > most || !json.Valid(b) || !bytes.HasPrefix(b, []byte("{")) {
		return messageView{}, bad("the bundle is not a JSON object of at most 16 MiB")
	}
	e := q.known
	id := "bundle-" + strings.ToLower(rand.Text()[:12])
	if err := a.Store.PutBundle(q.Context(), e.d.ID, e.d.N, id, q.body, q.now); err != nil {
		return messageView{}, err
	}
	e.d.Diagnose = time.Time{}
	return messageView{"bundle received", id}, nil
}

type bundleView struct {
	ID         string    `json:"id"`
	ReceivedAt time.Time `json:"received_at"`
	Size       int       `json:"size" doc:"bytes of gzip"`
}

type bundleList struct {
	Requested *time.Time   `json:"requested_at" doc:"a bundle was asked for and has not arrived yet"`
	Data      []bundleView `json:"data"`
}

// listDiagnostics answers GET /devices/{id}/diagnostics.
func listDiagnostics(a *API, q *request) (bundleList, error) {
	d, err := a.Store.Known(q.Context(), q.PathValue("id"))
	if err != nil {
		return bundleList{}, err
	}
	list, err := a.Store.Bundles(q.Context(), d.N)
	out := bundleList{when(d.Diagnose), []bundleView{}}
	for _, b := range list {
		out.Data = append(out.Data, bundleView{b.ID, second(b.At), b.Size})
	}
	return out, err
}

// getDiagnostics sends one bundle.
func getDiagnostics(a *API, q *request) (rawBody, error) {
	d, err := a.Store.Known(q.Context(), q.PathValue("id"))
	if err != nil {
		return rawBody{}, err
	}
	b, err := a.Store.Bundle(q.Context(), d.N, q.PathValue("bundle"))
	if err != nil {
		return rawBody{}, err
	}
	// Record in the audit log who has seen data from somebody's machine.
	if err := a.Store.Note(q.Context(), "diagnostics.downloaded", d.ID, []string{q.PathValue("bundle")}, q.now); err != nil {
		return rawBody{}, err
	}
	q.w.Header().Set("Content-Disposition", `attachment; filename="`+q.PathValue("bundle")+`.json.gz"`)
	return rawBody{"application/gzip", b}, nil
}
