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

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/store"
)

type exceptionBody struct {
	USB     string `json:"usb" minLength:"9" maxLength:"400" doc:"vendor:product or vendor:product:SERIAL, as warder status and events show it"`
	Minutes int    `json:"minutes" minimum:"1" maximum:"43200"`
	Reason  string `json:"reason" minLength:"1" maxLength:"500"`
	Offline bool   `json:"offline,omitempty" doc:"give a code to read out: the device is not reached, and redeems it by itself within a day"`
}

type exceptionView struct {
	ID        string     `json:"id"`
	USB       string     `json:"usb"`
	Reason    string     `json:"reason"`
	CreatedBy string     `json:"created_by"`
	CreatedAt time.Time  `json:"created_at"`
	Until     time.Time  `json:"until" doc:"for a code: the latest that it can hold"`
	EndedAt   *time.Time `json:"ended_at,omitempty"`
	Offline   bool       `json:"offline,omitempty"`
	Current   bool       `json:"current"`
	Code      string     `json:"code,omitempty" doc:"shown once"`
}

func viewException(x store.Exception, now time.Time) exceptionView {
	return exceptionView{x.ID, x.USB, x.Reason, x.CreatedBy, second(x.CreatedAt), second(x.Until), when(x.EndedAt), x.Offline, x.EndedAt.IsZero() && x.Until.After(now), ""}
}

func grantException(a *API, q *request, in *exceptionBody) (exceptionView, error) {
	d, err := a.Store.Known(q.Context(), q.PathValue("id"))
	if err != nil {
		return exceptionView{}, err
	}
	var errs policy.Errors
	u, err := policy.ParseUSBEntry(in.USB)
	if err != nil || u.AnyProduct {
		errs = append(errs, policy.Error{Field: "usb", Message: `must name one kind of device, "vvvv:pppp" or "vvvv:pppp:SERIAL"`, Received: in.USB})
	}
	text(&errs, "reason", in.Reason, 500)
	if strings.TrimSpace(in.Reason) == "" {
		errs = append(errs, policy.Error{Field: "reason", Message: "must say why", Received: in.Reason})
	}
	text(&errs, "usb", in.USB, 400)
	if err := invalid(errs); err != nil {
		return exceptionView{}, err
	}
	if d.State != store.Enrolled {
		return exceptionView{}, &problem{status: http.StatusConflict, code: "device_state", message: "the device is " + d.State}
	}
	length := time.Duration(in.Minutes) * time.Minute
	x := store.Exception{ID: "exception-" + strings.ToLower(rand.Text()[:12]), Device: d.N, USB: u.String(), Reason: in.Reason, CreatedBy: q.by, CreatedAt: q.now, Until: q.now.Add(length), Offline: in.Offline}
	code := ""
	if in.Offline {
		if code, err = protocol.NewCode(a.Keys.CodeSecret(d.ID), d.ID, x.USB, length, q.now); err != nil {
			return exceptionView{}, err
		}
		x.Until = x.Until.Add(protocol.CodeLife)
	}
	v := viewException(x, q.now)
	v.Code = code
	return v, a.Store.AddException(q.Context(), d.ID, x)
}

type exceptionList struct {
	Data []exceptionView `json:"data"`
}

func listExceptions(a *API, q *request) (exceptionList, error) {
	d, err := a.Store.Known(q.Context(), q.PathValue("id"))
	if err != nil {
		return exceptionList{}, err
	}
	list, err := a.Store.Exceptions(q.Context(), d.N, false, q.now)
	out := exceptionList{[]exceptionView{}}
	for _, x := range list {
		out.Data = append(out.Data, viewException(x, q.now))
	}
	return out, err
}

func endException(a *API, q *request) (messageView, error) {
	d, err := a.Store.Known(q.Context(), q.PathValue("id"))
	if err != nil {
		return messageView{}, err
	}
	id := q.PathValue("exception")
	return messageView{"exception ended", id}, a.Store.EndException(q.Context(), d.ID, d.N, id, q.now)
}

func requestDiagnostics(a *API, q *request) (messageView, error) {
	id := q.PathValue("id")
	q.status = http.StatusAccepted
	return messageView{"the device is asked at its next check-in", id}, a.Store.Diagnose(q.Context(), id, q.now)
}

// putDiagnostics takes a bundle that was asked for: gzip of one JSON object, bounded both ways.
func putDiagnostics(a *API, q *request) (messageView, error) {
	if len(q.body) > protocol.MaxBundle {
		return messageView{}, &problem{status: http.StatusRequestEntityTooLarge, code: "too_large", message: "a bundle has at most 1 MiB"}
	}
	z, err := gzip.NewReader(bytes.NewReader(q.body))
	if err != nil {
		return messageView{}, bad("the bundle is no gzip")
	}
	const most = 16 << 20
	b, err := io.ReadAll(io.LimitReader(z, most+1))
	if err != nil || len(b) > most || !json.Valid(b) || !bytes.HasPrefix(b, []byte("{")) {
		return messageView{}, bad("the bundle is no JSON object of at most 16 MiB")
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
	Requested *time.Time   `json:"requested_at" doc:"asked for and not come yet"`
	Data      []bundleView `json:"data"`
}

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

func getDiagnostics(a *API, q *request) (rawBody, error) {
	d, err := a.Store.Known(q.Context(), q.PathValue("id"))
	if err != nil {
		return rawBody{}, err
	}
	b, err := a.Store.Bundle(q.Context(), d.N, q.PathValue("bundle"))
	q.w.Header().Set("Content-Disposition", `attachment; filename="`+q.PathValue("bundle")+`.json.gz"`)
	return rawBody{"application/gzip", b}, err
}
