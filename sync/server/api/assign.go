package api

import (
	"errors"
	"slices"
	"time"

	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/store"
)

// assignmentLife is how long a signed policy is fresh. It is renewed after half of that.
const assignmentLife = 30 * 24 * time.Hour

// assign signs what a device should have, if that differs from what it has, or is past half of its life.
func (a *API) assign(q *request, e *entry, r *fleet.Rendered, in *protocol.Report, st *fleet.State) (string, error) {
	current := in.Policy
	exceptions, err := a.exceptionsOf(q, e)
	if err != nil {
		return "", err
	}
	excepted := current.Exceptions == protocol.ExceptionsDigest(exceptions)
	if current.Refused == r.Digest {
		if excepted || current.Version == 0 {
			return "", nil
		}
		// The device continues with the previous version; its exceptions are updated with that.
		if r, err = a.rendered(q, e, current, st); err != nil || r == nil {
			return "", err
		}
	}
	same := current.Digest == r.Digest && current.ID == r.Policy && current.Version == r.Version && current.Serial > 0 && excepted
	if same && q.now.Sub(e.d.AssignedAt) < assignmentLife/2 {
		return "", nil
	}
	// Above what the device has, also after the server was restored from a backup. A device's own serial never raises
	// the sequence of the others.
	serial := max(st.Sequence, current.Serial+1)
	if current.Serial >= protocol.MaxSerial {
		// Somebody signed the highest serial there is. The device accepts this one after the recovery key's statement,
		// which comes in the same answer; without it, it refuses.
		serial = st.Sequence
	}
	if err := a.moved(q, e, r, st); err != nil {
		return "", err
	}
	s, err := protocol.SignAssignment(a.Keys.Signing(), protocol.Assignment{DeviceID: e.d.ID, Serial: serial, IssuedAt: q.now.UTC(),
		ExpiresAt: q.now.Add(assignmentLife).UTC(), Policy: r.Document, Exceptions: exceptions})
	if err != nil {
		return "", err
	}
	e.d.AssignedAt = q.now
	return s, nil
}

// rendered is the version that a device has, as it was sent; nil if that is no longer known.
func (a *API) rendered(q *request, e *entry, current protocol.PolicyState, st *fleet.State) (*fleet.Rendered, error) {
	v, err := a.Store.PolicyVersion(q.Context(), current.ID, current.Version)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := fleet.FromDocument(v.Document)
	if err != nil {
		return nil, err
	}
	_, mode := st.Assigned(&e.d.Device)
	r, err := fleet.Render(p, mode)
	if err != nil || r.Digest != current.Digest {
		return nil, err
	}
	return r, nil
}

// exceptionsOf are the server's current exceptions for a device.
func (a *API) exceptionsOf(q *request, e *entry) ([]protocol.Exception, error) {
	if !e.d.Excepted.After(q.now) {
		return nil, nil
	}
	if q.now.Before(e.until) {
		return lasting(e.exceptions, q.now), nil
	}
	list, err := a.Store.Exceptions(q.Context(), e.d.N, true, q.now)
	if err != nil {
		return nil, err
	}
	e.exceptions, e.until = nil, q.now.Add(time.Hour)
	for _, x := range list {
		e.exceptions = append(e.exceptions, protocol.Exception{ID: x.ID, Section: x.Section, Subject: x.Subject, Reason: x.Reason,
			Until: x.Until, Seconds: int64(x.Until.Sub(x.CreatedAt) / time.Second)})
		if x.Until.Before(e.until) {
			e.until = x.Until
		}
	}
	return lasting(e.exceptions, q.now), nil
}

// lasting returns exceptions as they are sent at a moment. If this server's clock was set back, none lasts longer than
// it was granted for.
func lasting(list []protocol.Exception, now time.Time) []protocol.Exception {
	out := slices.Clone(list)
	for i := range out {
		if most := now.Add(time.Duration(out[i].Seconds) * time.Second); out[i].Until.After(most) {
			out[i].Until = most
		}
	}
	return out
}
