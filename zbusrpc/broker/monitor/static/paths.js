/* The paths of the broker's interface; names are encoded, whatever is in them. */

const encode = encodeURIComponent;

export const topicPath = (topic, act = "") => `/api/topics/${encode(topic)}${act && `/${act}`}`;
export const groupPath = (topic, group, act) => `${topicPath(topic)}/groups/${encode(group)}/${act}`;
export const servicePath = (service) => `/api/services/${encode(service)}`;
export const callPath = (service, method) => `/rpc/${encode(service)}/${encode(method)}`;

/** Add a query; what is empty is left out. */
export function withQuery(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== undefined);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}
